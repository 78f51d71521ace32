"""Rows that belong to a module and its checkpoints, and may be more than memory holds."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_ad.system.distributed import gather_rows, world_size
from lightning_ad.system.memory import BLOCK_BYTES, allocate, blocks_of, fits, release_all

ALL = slice(None)


class RowStore(nn.Module):
    """Rows [N, L]; `store[rows]` and `store[rows, columns]` give some, `store[rows] = values` puts them in.

    They are not a buffer: DistributedDataParallel sends those to all processes at every step, and whatever their size
    they follow the module to its accelerator. Up to the limit these do too; beyond it, they stay where they are:
    in the file of `allocate`, or in the checkpoint, if that was read by `torch.load(mmap=True)`.

    Args:
        memory_bytes: that the rows may take on the device of the module; None for no limit.

    Attributes:
        blocks: the rows, one block after another, all but the last of one length; a single one where they are in
            memory. In a checkpoint each is a tensor of its own, so that one at a time is in memory while it is written.
    """

    def __init__(self, memory_bytes: int | None = None) -> None:
        super().__init__()
        self.memory_bytes = memory_bytes
        self.blocks = [torch.empty(0, 0)]

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def __getitem__(self, which: Tensor | tuple[Tensor, slice]) -> Tensor:
        rows, columns = which if isinstance(which, tuple) else (which, ALL)
        if len(self.blocks) == 1:
            return self.blocks[0][:, columns].index_select(0, rows)
        out = self.blocks[0].new_empty(len(rows), self.blocks[0][:0, columns].shape[1])
        for number, wanted in self._by_block(rows):
            out[wanted] = self.blocks[number][:, columns].index_select(
                0, rows[wanted] - number * len(self.blocks[0])
            )
            release_all()
        return out

    def __setitem__(self, rows: Tensor, values: Tensor) -> None:
        for number, wanted in self._by_block(rows):
            self.blocks[number][rows[wanted] - number * len(self.blocks[0])] = values[wanted].to(
                self.blocks[0]
            )
            release_all()

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(block.nbytes for block in self.blocks)

    def resize(self, count: int, length: int, dtype: torch.dtype, keep: int = 0) -> None:
        """Makes room for `count` rows of `length` numbers in main memory or in a file; the first `keep` rows stay."""
        old = RowStore()
        old.blocks, each = self.blocks, max(1, BLOCK_BYTES // max(1, length * dtype.itemsize))
        self.blocks = blocks_of(allocate((count, length), dtype, self.memory_bytes), each)
        for start in range(0, keep, each):
            rows = torch.arange(start, min(start + each, keep))
            self[rows] = old[rows.to(old.blocks[0].device)].cpu()

    def _by_block(self, rows: Tensor) -> list[tuple[int, Tensor]]:
        """The blocks that rows lie in, and which of the rows those are."""
        if len(self.blocks) == 1:
            return [(0, torch.arange(len(rows), device=rows.device))]
        numbers = rows // len(self.blocks[0])
        return [(int(number), (numbers == number).nonzero()[:, 0]) for number in numbers.unique()]

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        if fits(self.nbytes, self.memory_bytes):
            self.blocks = [fn(block) for block in self.blocks]
        return super()._apply(fn, recurse)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination |= {f"{prefix}rows.{number}": block for number, block in enumerate(self.blocks)}

    def _load_from_state_dict(
        self,
        state: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        *_: Any,
    ) -> None:
        blocks = (
            [state[prefix + "rows"]] if prefix + "rows" in state else []
        )  # as earlier versions wrote it
        while (block := state.get(f"{prefix}rows.{len(blocks)}")) is not None:
            blocks.append(block)
        if not blocks:
            missing.append(prefix + "rows.0")
        elif fits(sum(block.nbytes for block in blocks), self.memory_bytes):
            self.blocks = [torch.cat([block.to(self.blocks[0].device) for block in blocks])]
        else:
            self.blocks = blocks


class Rows(Protocol):
    """What rows are taken from and put into: a tensor [N, ...] or a `RowStore`."""

    def __getitem__(self, rows: Tensor) -> Tensor: ...

    def __setitem__(self, rows: Tensor, values: Tensor) -> None: ...


def share_rows(stores: Sequence[Rows], rows: Tensor, device: torch.device) -> None:
    """Fills stores of N rows in main memory on all processes, each of which has written its own `rows` [n] of them.

    In place, and in blocks. `device` is what the process group talks over.
    """
    if world_size() == 1:
        return
    length = torch.tensor(
        [sum(store[rows[:1]].nbytes for store in stores), len(rows)], device=device
    )
    dist.all_reduce(length, dist.ReduceOp.MAX)
    each, most = length.tolist()
    block = max(1, BLOCK_BYTES // (max(1, each) * world_size()))
    for start in range(0, most, block):
        own = rows[start : start + block]
        everyones = gather_rows(own.to(device)).cpu()
        for store in stores:
            store[everyones] = gather_rows(store[own].to(device)).cpu()
