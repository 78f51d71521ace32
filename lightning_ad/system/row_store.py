"""Rows that belong to a module and its checkpoints, and may be more than memory holds."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_ad.system.distributed import gather_rows, world_size
from lightning_ad.system.memory import BLOCK_BYTES, allocate, blocks_of, fits, release_all

ALL_COLUMNS = slice(None)


class RowStore(nn.Module):
    """Rows [N, L]: `store[rows]` and `store[rows, columns]` read, `store[rows] = values` writes.

    They are not a buffer: DistributedDataParallel sends buffers to all processes at every step, and
    a module takes buffers of any size to its accelerator. Up to the limit, the rows follow the
    module too; beyond it, they stay where they are: in the file of `allocate`, or in the checkpoint
    if that was read by `torch.load(mmap=True)`.

    Args:
        memory_bytes: what the rows may take on the device of the module; None for no limit.

    Attributes:
        blocks: the rows, one block after another, all but the last of one length; a single block if
            they are in memory. Each is a tensor of its own in a checkpoint, so that one at a time
            is in memory while it is written.
    """

    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__()
        self.memory_bytes = memory_bytes
        self.blocks = [torch.empty(0, 0)]

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def __getitem__(self, which: Tensor | tuple[Tensor, slice]) -> Tensor:
        rows, columns = _rows_and_columns(which)
        if len(self.blocks) == 1:
            return self.blocks[0][:, columns].index_select(0, rows)
        width = self.blocks[0][:0, columns].shape[1]
        found = self.blocks[0].new_empty(len(rows), width)
        for number, places in self._by_block(rows):
            own = rows[places] - number * len(self.blocks[0])
            found[places] = self.blocks[number][:, columns].index_select(0, own)
            release_all()
        return found

    def __setitem__(self, rows: Tensor, values: Tensor) -> None:
        for number, places in self._by_block(rows):
            own = rows[places] - number * len(self.blocks[0])
            self.blocks[number][own] = values[places].to(self.blocks[0])
            release_all()

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)

    def resize(self, count: int, length: int, dtype: torch.dtype, keep: int = 0) -> None:
        """Makes room for `count` rows of `length` numbers; the first `keep` rows stay.

        Raises:
            DiskFullError: if they go to a file and the disk has no room for it.
        """
        old = RowStore()
        old.blocks = self.blocks
        rows_in_block = max(1, BLOCK_BYTES // max(1, length * dtype.itemsize))
        self.blocks = blocks_of(allocate((count, length), dtype, self.memory_bytes), rows_in_block)
        for start in range(0, keep, rows_in_block):
            rows = torch.arange(start, min(start + rows_in_block, keep))
            self[rows] = old[rows.to(old.blocks[0].device)].cpu()

    def _by_block(self, rows: Tensor) -> list[tuple[int, Tensor]]:
        """Returns the blocks that rows lie in, each with the places of its rows in `rows`."""
        if len(self.blocks) == 1:
            return [(0, torch.arange(len(rows), device=rows.device))]
        numbers = rows // len(self.blocks[0])
        by_block = []
        for number in numbers.unique().tolist():
            places = (numbers == number).nonzero()[:, 0]
            by_block.append((number, places))
        return by_block

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        if fits(self.nbytes, self.memory_bytes):
            self.blocks = [fn(block) for block in self.blocks]
        return super()._apply(fn, recurse)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        for number, block in enumerate(self.blocks):
            destination[f"{prefix}rows.{number}"] = block

    def _load_from_state_dict(
        self,
        state: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        *_: Any,
    ) -> None:
        blocks = _saved_blocks(state, prefix)
        if not blocks:
            missing.append(prefix + "rows.0")
            return
        if not fits(sum(block.nbytes for block in blocks), self.memory_bytes):
            self.blocks = blocks
            return
        device = self.blocks[0].device
        self.blocks = [torch.cat([block.to(device) for block in blocks])]


class Rows(Protocol):
    """Anything that rows are read from and written to: a tensor [N, ...] or a `RowStore`."""

    def __getitem__(self, rows: Tensor) -> Tensor: ...

    def __setitem__(self, rows: Tensor, values: Tensor) -> None: ...


def share_rows(stores: Sequence[Rows], rows: Tensor, device: torch.device) -> None:
    """Fills stores of N rows on all processes with the rows that each has written, in blocks.

    Args:
        stores: in main memory or in a file.
        rows: int64 [n], those that this process has written.
        device: what the process group talks over.
    """
    if world_size() == 1:
        return
    row_bytes = sum(store[rows[:1]].nbytes for store in stores)
    sizes = torch.tensor([row_bytes, len(rows)], device=device)
    dist.all_reduce(sizes, dist.ReduceOp.MAX)
    row_bytes, most_rows = sizes.tolist()
    rows_in_block = max(1, BLOCK_BYTES // (max(1, row_bytes) * world_size()))
    for start in range(0, most_rows, rows_in_block):
        own = rows[start : start + rows_in_block]
        everyones = gather_rows(own.to(device)).cpu()
        for store in stores:
            store[everyones] = gather_rows(store[own].to(device)).cpu()


def _rows_and_columns(which: Tensor | tuple[Tensor, slice]) -> tuple[Tensor, slice]:
    if isinstance(which, tuple):
        return which
    return which, ALL_COLUMNS


def _saved_blocks(state: dict[str, Any], prefix: str) -> list[Tensor]:
    """Returns the blocks in a state dict; earlier versions wrote all rows as one tensor."""
    blocks = []
    if prefix + "rows" in state:
        blocks.append(state[prefix + "rows"])
    while f"{prefix}rows.{len(blocks)}" in state:
        blocks.append(state[f"{prefix}rows.{len(blocks)}"])
    return blocks
