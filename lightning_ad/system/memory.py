"""Room for what is kept of many images: in main memory, or in a file where it would take too much of it."""

import math
import mmap
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from weakref import WeakValueDictionary

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_ad.errors import UserError
from lightning_ad.system.distributed import world_size

PICKED = 256  # rows that are read from a file at a time, each with up to 64 KiB around it
BLOCK_BYTES = (
    64 * 2**20
)  # of rows that are in memory at a time: written to a checkpoint, or between processes
_MAPPINGS: WeakValueDictionary[int, mmap.mmap] = (
    WeakValueDictionary()
)  # by the address of their tensors


def fits(size: int, memory_bytes: int | None) -> bool:
    """Whether `size` bytes may be held in memory; None sets no limit."""
    return memory_bytes is None or size <= memory_bytes


def allocate(shape: Sequence[int], dtype: torch.dtype, memory_bytes: int | None = None) -> Tensor:
    """An empty tensor in main memory or, where it takes more than `memory_bytes`, mapped from a temporary file.

    The file lies in the folder for temporary files (`TMPDIR`), has no name there, and is gone with the last view of
    the tensor, or with the process. Pages of it that are in memory count as the process's own until `release`.

    Raises:
        UserError: where the disk has no room for it.
    """
    size = math.prod(shape) * dtype.itemsize
    if fits(size, memory_bytes):
        return torch.empty(*shape, dtype=dtype)
    folder, gib = tempfile.gettempdir(), size / 2**30
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if hasattr(os, "posix_fallocate"):  # not on a Mac
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            raise UserError(
                f"the features of the training images take {gib:.3g} GiB, and {folder} has no room for them "
                f"({error.strerror}); name a folder on a larger disk by TMPDIR, or raise model.memory_gb"
            ) from error
        mapping = mmap.mmap(file.fileno(), size)
    rank_zero_info(
        f"The features of the training images take {gib:.3g} GiB, model.memory_gb leaves {memory_bytes / 2**30:.3g}: "
        f"they go to a temporary file in {folder} (TMPDIR). Results stay the same; reading them takes longer."
    )
    tensor = torch.frombuffer(mapping, dtype=dtype).view(*shape)
    _MAPPINGS[tensor.data_ptr()] = mapping
    return tensor


def release(tensor: Tensor) -> None:
    """Takes the pages of a tensor that `allocate` has mapped from a file out of the process; nothing is lost.

    The system writes them to the file when it will, and they come back when they are read. A tensor in main memory
    is left alone.
    """
    mapping = _MAPPINGS.get(tensor.untyped_storage().data_ptr())
    if mapping is not None and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def release_all() -> None:
    """`release` of every tensor that there is."""
    for mapping in {id(one): one for one in _MAPPINGS.values()}.values():
        if hasattr(mapping, "madvise"):
            mapping.madvise(mmap.MADV_DONTNEED)


def blocks_of(tensor: Tensor, rows: int) -> list[Tensor]:
    """A tensor of `allocate` itself, or, mapped from a file, its parts of so many rows, each with a storage of its own.

    Parts that share a storage would be one in a checkpoint, and in memory all together while it is written.
    """
    mapping = _MAPPINGS.get(tensor.data_ptr())
    if mapping is None:
        return [tensor]
    blocks = [
        torch.frombuffer(
            mapping,
            dtype=tensor.dtype,
            count=part.numel(),
            offset=part.data_ptr() - tensor.data_ptr(),
        )
        for part in tensor.split(rows)
    ]
    _MAPPINGS.update({block.data_ptr(): mapping for block in blocks})
    return [block.view(-1, *tensor.shape[1:]) for block in blocks]


def gather_rows_from_file(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows of a tensor of `allocate`. Of a file, each row brings the pages around it into memory: they are released."""
    if in_memory(tensor):
        return tensor[rows]
    out = torch.empty(len(rows), *tensor.shape[1:], dtype=tensor.dtype)
    for part, some in zip(out.split(PICKED), rows.split(PICKED), strict=True):
        torch.index_select(tensor, 0, some, out=part)
        release(tensor)
    return out


def in_memory(tensor: Tensor) -> bool:
    """Whether a tensor of `allocate` is in main memory, not mapped from a file."""
    return tensor.untyped_storage().data_ptr() not in _MAPPINGS


class VectorStore:
    """Vectors [P, D] of each image that this process sees, in the order in which they come; allocated once.

    Args:
        images: of the whole training set, over all processes.
        memory_bytes: what this process may hold in main memory; more goes to a file (`allocate`). None for no limit.

    Attributes:
        index: int64 [n], the images stored so far.
    """

    def __init__(self, images: int, memory_bytes: int | None = None) -> None:
        self._capacity, self._memory_bytes = -(-images // world_size()), memory_bytes
        self._room: Tensor | None = None
        self.index = torch.empty(0, dtype=torch.int64)

    @property
    def vectors(self) -> Tensor:
        """Those stored so far, [n, P, D]: a view."""
        if self._room is None:
            raise RuntimeError("no image was observed")
        return self._room[: len(self.index)]

    @property
    def held(self) -> int:
        """Bytes in main memory."""
        return 0 if self._room is None or not in_memory(self._room) else self._room.nbytes

    def put(self, index: Tensor, vectors: Tensor) -> None:
        """Keeps the vectors [B, P, D] of the images `index` [B]; each image comes once."""
        if self._room is None:
            self._room = allocate(
                (self._capacity, *vectors.shape[1:]), vectors.dtype, self._memory_bytes
            )
        self._room[len(self.index) : len(self.index) + len(index)] = vectors.cpu()
        release(self._room)
        self.index = torch.cat([self.index, index.cpu()])


def held_now() -> int:
    """Bytes of main memory that this process holds."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # not on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )


def available() -> int | None:
    """Bytes of main memory that can still be had; None where the system does not tell."""
    try:
        with open("/proc/meminfo") as file:
            return next(
                int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable")
            )
    except (OSError, StopIteration):
        return None
