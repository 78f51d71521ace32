"""Features of a frozen network on disk: runs that see the same images by the same network compute them once."""

import hashlib
import io
import os
import platform
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

TRIED = 16  # images after which it is known whether reading is faster than computing
OURS = "lightning_ad_features"  # a folder in which nothing else is
HEX = 32 * "[0-9a-f]"
KEPT = 0.8  # of the limit, after the oldest were removed


class DiskFeatures:
    """Maps of an image by network and pixels, to the same bits as computed ones; for several threads and processes.

    A file's name is the digest of the image as the network gets it, its folder that of architecture, weights, layers,
    PyTorch's version and the kind of processor. A file that is damaged is computed again. Where reading turns out no
    faster than computing, both end.

    Args:
        folder: of all networks.
        gib: what it may hold, as a process finds it when it begins; those that were used longest ago go first.
        network: whose features these are, with its weights.
        name: of its architecture.
        layers: names of its maps.
    """

    def __init__(
        self, folder: Path, gib: float, network: nn.Module, name: str, layers: Sequence[str]
    ) -> None:
        folder = folder / OURS
        self.folder = folder / _digest_of(network, name, layers)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._room = _make_room(folder, int(gib * 2**30))
        self._lock = threading.Lock()
        self._computed = self._read = 0.0
        self._counts = [0, 0]  # of images computed and read
        self.pays = True

    def get(self, image: Tensor, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The maps [1, C, h, w] of one image [1, 3, H, W], read where they are there, or else computed and kept."""
        if not self.pays:
            return compute()
        digest = hashlib.blake2b(repr((image.shape, image.dtype)).encode(), digest_size=16)
        digest.update(image.contiguous().numpy().data)
        path = self.folder / digest.hexdigest()
        began = time.perf_counter()
        maps = _load(path)
        if maps is not None:
            self._count(1, time.perf_counter() - began)
            return maps
        began = time.perf_counter()
        maps = compute()
        self._count(0, time.perf_counter() - began)
        self._store(path, maps)
        return maps

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # another process opens its own

    def _store(self, path: Path, maps: list[Tensor]) -> None:
        size = sum(m.nbytes for m in maps) + 4096
        with self._lock:
            if size > self._room:
                return
            self._room -= size
        payload = io.BytesIO()
        torch.save(maps, payload)
        data = payload.getbuffer()
        part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            part.write_bytes(zlib.crc32(data).to_bytes(4, "little") + data)
            part.replace(path)
        except OSError as error:
            self.pays = False
            part.unlink(missing_ok=True)
            rank_zero_info(f"No more features are kept in {self.folder.parent}: {error.strerror}")

    def _count(self, read: int, seconds: float) -> None:
        with self._lock:
            self._counts[read] += 1
            if read:
                self._read += seconds
            else:
                self._computed += seconds
            known = self._counts[0] >= TRIED and self._counts[1] >= TRIED
        if known and self.pays and self._read / self._counts[1] > self._computed / self._counts[0]:
            self.pays = False
            rank_zero_info(
                f"Features are computed faster than read from {self.folder.parent}: they are not kept there."
            )


def _load(path: Path) -> list[Tensor] | None:
    try:
        data = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    if len(data) < 4 or zlib.crc32(memoryview(data)[4:]) != int.from_bytes(data[:4], "little"):
        return None
    return torch.load(io.BytesIO(data[4:]), weights_only=True)


def _digest_of(network: nn.Module, name: str, layers: Sequence[str]) -> str:
    told = (
        torch.__version__,
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        name,
        list(layers),
    )
    digest = hashlib.blake2b(repr(told).encode(), digest_size=16)
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _make_room(folder: Path, limit: int) -> int:
    """Bytes that may still be written; where the limit is nearly reached, the files used longest ago are removed."""
    files = []
    for path in folder.glob(f"{HEX}/{HEX}"):
        try:
            found = path.stat()
        except OSError:  # another process has removed it
            continue
        files.append((found.st_mtime, found.st_size, path))
    held = sum(size for _, size, _ in files)
    for _, size, path in sorted(files) if held > 0.95 * limit else []:
        if held <= KEPT * limit:
            break
        path.unlink(missing_ok=True)
        held -= size
    return limit - held
