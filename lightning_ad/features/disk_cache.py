"""Features of a frozen network on disk, computed once for runs with the same images and network."""

import hashlib
import io
import os
import platform
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

TRIED = 16  # images after which it is known whether reading is faster than computing
OURS = "lightning_ad_features"  # a folder in which nothing else is
DIGEST_BYTES = 16
HEX = 2 * DIGEST_BYTES * "[0-9a-f]"
FULL = 0.95  # of the limit: from there on, room is made
KEPT = 0.8  # of the limit, after the oldest were removed
CHECKSUM = 4  # bytes before the data of a file


class DiskFeatures:
    """Maps of images on disk, the same bits as computed ones; for several threads and processes.

    A file's name is the digest of the image as the network gets it, its folder's name that of
    architecture, weights, layers, PyTorch's version and kind of processor. The maps of a damaged
    file are computed again. Caching stops if reading turns out slower than computing.

    Args:
        folder: holds the features of all networks.
        gib: the most that the folder may hold, in GiB, as a process finds it at its start; the
            features that were used longest ago are removed first.
        network: computes the features, with its present weights.
        name: of the network's architecture.
        layers: names of its maps.

    Attributes:
        pays: whether reading is faster than computing, as far as is known.
    """

    def __init__(
        self, folder: Path, gib: float, network: nn.Module, name: str, layers: Sequence[str]
    ) -> None:
        folder = folder / OURS
        self.folder = folder / _digest_of(network, name, layers)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pays = True
        self._room = _make_room(folder, int(gib * 2**30))
        self._lock = threading.Lock()
        self._computing = _Pace()
        self._reading = _Pace()

    def get(self, image: Tensor, compute: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """Reads the maps [1, C, h, w] of one image [1, 3, H, W], or computes and keeps them."""
        if not self.pays:
            return compute(image)
        path = self.folder / _digest_of_image(image)
        began = time.perf_counter()
        maps = _read(path)
        if maps is not None:
            self._count(self._reading, time.perf_counter() - began)
            return maps
        began = time.perf_counter()
        maps = compute(image)
        self._count(self._computing, time.perf_counter() - began)
        self._store(path, maps)
        return maps

    def _store(self, path: Path, maps: list[Tensor]) -> None:
        if not self._take_room(sum(level.nbytes for level in maps) + 4096):
            return
        payload = io.BytesIO()
        torch.save(maps, payload)
        data = payload.getbuffer()
        part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            part.write_bytes(_checksum(data) + data)
            part.replace(path)
        except OSError as error:
            self.pays = False
            part.unlink(missing_ok=True)
            rank_zero_info(f"No more features are saved in {self.folder.parent}: {error.strerror}")

    def _take_room(self, size: int) -> bool:
        with self._lock:
            if size > self._room:
                return False
            self._room -= size
            return True

    def _count(self, pace: "_Pace", seconds: float) -> None:
        with self._lock:
            pace.add(seconds)
            known = self._computing.images >= TRIED and self._reading.images >= TRIED
        if known and self.pays and self._reading.mean > self._computing.mean:
            self.pays = False
            rank_zero_info(
                f"Computing features is faster than reading them from {self.folder.parent}: "
                "they are no longer saved there."
            )


class _Pace:
    """The number of images that were read or computed, and the seconds that they took."""

    images = 0
    seconds = 0.0

    def add(self, seconds: float) -> None:
        self.images += 1
        self.seconds += seconds

    @property
    def mean(self) -> float:
        return self.seconds / self.images


def _read(path: Path) -> list[Tensor] | None:
    """Reads the maps in a file; None if it is missing or damaged."""
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    checksum = content[:CHECKSUM]
    data = memoryview(content)[CHECKSUM:]
    if checksum != _checksum(data):
        return None
    return torch.load(io.BytesIO(data), weights_only=True)


def _checksum(data: memoryview) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM, "little")


def _digest_of_image(image: Tensor) -> str:
    digest = _digest((image.shape, image.dtype))
    digest.update(image.contiguous().numpy().data)
    return digest.hexdigest()


def _digest_of(network: nn.Module, name: str, layers: Sequence[str]) -> str:
    """Returns a digest of all that determines the bits of the features, except the image."""
    described = (
        torch.__version__,
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        name,
        list(layers),
    )
    digest = _digest(described)
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        numbers = value.detach().cpu().contiguous().flatten()
        digest.update(numbers.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest(described: object) -> hashlib.blake2b:
    return hashlib.blake2b(repr(described).encode(), digest_size=DIGEST_BYTES)


def _make_room(folder: Path, limit: int) -> int:
    """Removes the oldest files of a nearly full folder; returns how many bytes may be written."""
    files = _files_by_age(folder)
    held = sum(size for _, size, _ in files)
    if held <= FULL * limit:
        return limit - held
    for _, size, path in files:
        if held <= KEPT * limit:
            break
        path.unlink(missing_ok=True)
        held -= size
    return limit - held


def _files_by_age(folder: Path) -> list[tuple[float, int, Path]]:
    """Lists the time of last use, the size and the path of each file, the oldest first."""
    files = []
    for path in folder.glob(f"{HEX}/{HEX}"):
        try:
            found = path.stat()
        except OSError:  # another process has removed it
            continue
        files.append((found.st_mtime, found.st_size, path))
    return sorted(files)
