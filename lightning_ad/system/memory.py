"""Room for many rows: in main memory, or in a temporary file if they would take too much of it."""

import math
import mmap
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from typing import BinaryIO
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from lightning_ad.errors import DiskFullError
from lightning_ad.system.distributed import world_size

ROWS_READ = 256  # rows that are read from a file at a time, each with up to 64 KiB around it
# Of rows that are in memory at a time: written to a checkpoint, or sent between processes.
BLOCK_BYTES = 64 * 2**20
# The mapped files, by the address of their tensors.
_MAPPINGS: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()


def fits(size: int, memory_bytes: int | None) -> bool:
    """Returns whether `size` bytes may be held in memory; None sets no limit."""
    return memory_bytes is None or size <= memory_bytes


def allocate(shape: Sequence[int], dtype: torch.dtype, memory_bytes: int | None = None) -> Tensor:
    """Allocates a tensor in main memory or, above `memory_bytes`, in a temporary file.

    The file lies in the folder for temporary files (`TMPDIR`), has no name there, and is gone with
    the last view of the tensor, or with the process. Its pages that are in memory count as the
    process's own until `release`.

    Raises:
        DiskFullError: if the disk has no room for it.
    """
    size = math.prod(shape) * dtype.itemsize
    if fits(size, memory_bytes):
        return torch.empty(*shape, dtype=dtype)
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            _reserve(file, size)
        except OSError as error:
            raise DiskFullError(size, folder, str(error.strerror)) from error
        mapping = mmap.mmap(file.fileno(), size)
    tensor = torch.frombuffer(mapping, dtype=dtype).view(*shape)
    _MAPPINGS[tensor.data_ptr()] = mapping
    return tensor


def release(tensor: Tensor) -> None:
    """Drops the pages of a tensor that `allocate` has mapped from a file; nothing is lost.

    The system writes them to the file in its own time, and they come back when they are read. A
    tensor in main memory is left alone.
    """
    mapping = _MAPPINGS.get(tensor.untyped_storage().data_ptr())
    if mapping is not None:
        _drop_pages(mapping)


def release_all() -> None:
    """Drops the pages of all tensors that `allocate` has mapped from files."""
    mappings = {id(mapping): mapping for mapping in _MAPPINGS.values()}
    for mapping in mappings.values():
        _drop_pages(mapping)


def blocks_of(tensor: Tensor, rows: int) -> list[Tensor]:
    """Splits a tensor of `allocate` that is mapped from a file; one in memory stays whole.

    Each part has a storage of its own: parts that share one would be one in a checkpoint, and in
    memory all together while it is written.

    Args:
        tensor: [N, ...].
        rows: of each part but the last.
    """
    mapping = _MAPPINGS.get(tensor.data_ptr())
    if mapping is None:
        return [tensor]
    blocks = []
    for part in tensor.split(rows):
        offset = part.data_ptr() - tensor.data_ptr()
        block = torch.frombuffer(mapping, dtype=tensor.dtype, count=part.numel(), offset=offset)
        _MAPPINGS[block.data_ptr()] = mapping
        blocks.append(block.view(part.shape))
    return blocks


def gather_rows_from_file(tensor: Tensor, rows: Tensor) -> Tensor:
    """Returns rows of a tensor of `allocate`.

    Each row of a file brings the pages around it into memory: they are released.
    """
    if in_memory(tensor):
        return tensor[rows]
    gathered = torch.empty(len(rows), *tensor.shape[1:], dtype=tensor.dtype)
    parts = zip(gathered.split(ROWS_READ), rows.split(ROWS_READ), strict=True)
    for target, wanted in parts:
        torch.index_select(tensor, 0, wanted, out=target)
        release(tensor)
    return gathered


def in_memory(tensor: Tensor) -> bool:
    """Returns whether a tensor of `allocate` is in main memory, not mapped from a file."""
    return tensor.untyped_storage().data_ptr() not in _MAPPINGS


class VectorStore:
    """Vectors [P, D] of each item that this process sees, in order of arrival; allocated once.

    Args:
        items: number of items of all processes together.
        memory_bytes: what this process may hold in main memory; more goes to a file (`allocate`).
            None for no limit.

    Attributes:
        index: int64 [n], the numbers of the items stored so far.
    """

    def __init__(self, items: int, memory_bytes: int | None = None) -> None:
        self.memory_bytes = memory_bytes
        self.index = torch.empty(0, dtype=torch.int64)
        self._capacity = -(-items // world_size())
        self._room: Tensor | None = None

    @property
    def vectors(self) -> Tensor:
        """The vectors stored so far, [n, P, D]: a view."""
        if self._room is None:
            raise RuntimeError("nothing was stored yet")
        return self._room[: len(self.index)]

    @property
    def nbytes(self) -> int:
        """The number of bytes allocated, in main memory or in a file."""
        if self._room is None:
            return 0
        return self._room.nbytes

    @property
    def held(self) -> int:
        """The number of bytes allocated in main memory."""
        if self._room is None or not in_memory(self._room):
            return 0
        return self._room.nbytes

    def put(self, index: Tensor, vectors: Tensor) -> None:
        """Stores the vectors [B, P, D] of the items `index` [B]; each item is given once.

        Raises:
            DiskFullError: if they go to a file and the disk has no room for it.
        """
        if self._room is None:
            shape = (self._capacity, *vectors.shape[1:])
            self._room = allocate(shape, vectors.dtype, self.memory_bytes)
        self._room[len(self.index) : len(self.index) + len(index)] = vectors.cpu()
        release(self._room)
        self.index = torch.cat([self.index, index.cpu()])


def held_now() -> int:
    """Returns the bytes of main memory that this process holds."""
    try:
        with open("/proc/self/statm") as file:
            resident_pages = int(file.read().split()[1])
    except OSError:  # not on Linux
        return peak_held()
    return resident_pages * resource.getpagesize()


def peak_held() -> int:
    """Returns the most bytes of main memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":  # bytes on a Mac, KiB elsewhere
        return peak
    return peak * 1024


def available() -> int | None:
    """Returns the free bytes of main memory; None if the system does not report them."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _reserve(file: BinaryIO, size: int) -> None:
    """Gives a file its size on the disk.

    Raises:
        OSError: if the disk has no room for it.
    """
    if hasattr(os, "posix_fallocate"):  # not on a Mac
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _drop_pages(mapping: mmap.mmap) -> None:
    if hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)
