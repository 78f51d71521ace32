"""How the images of a batch go through a frozen network: fast, and to the same bits in any batch.

Libraries choose their convolutions by the size of the batch and by the number of threads, and those
round differently. So that the features of an image are the same bits in every batch, images go
through in blocks of one fixed size, on a CPU one by one, each on one thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from lightning_ad.features.disk_cache import DiskFeatures
from lightning_ad.features.fusion import FusedNetwork, fusable
from lightning_ad.system.threads import map_single_threaded, one_thread

Maps = list[Tensor]  # [B, C_l, h_l, w_l] of each layer
Network = Callable[[Tensor], Maps]  # maps of images [B, 3, H, W] in [0, 1]
Then = Callable[[Maps], Maps]  # what is made of maps at once, so that they need not all be held


class Frozen(Protocol):
    """The parts of a frozen network that extraction uses."""

    body: fx.GraphModule
    layers: list[str]
    mean: Tensor
    std: Tensor

    def plain_maps(self, image: Tensor) -> Maps:
        """Returns the maps of images, computed as PyTorch does it."""
        ...


class Extractor(Protocol):
    """A way to bring a batch through a network."""

    def __call__(self, image: Tensor, then: Then) -> Maps:
        """Returns what `then` makes of the maps of images [B, 3, H, W]: tensors [B, ...].

        `then` may get the images in parts: what it makes of one must not depend on the others.
        """
        ...


@dataclass(frozen=True)
class WholeBatch:
    """An extractor that computes all images at once."""

    network: Network

    def __call__(self, image: Tensor, then: Then) -> Maps:
        return then(self.network(image))


@dataclass(frozen=True)
class FixedBlocks:
    """An extractor that computes always `size` images at once, the last block filled with zeros."""

    network: Network
    size: int

    def __call__(self, image: Tensor, then: Then) -> Maps:
        count = len(image)
        missing = -count % self.size
        if missing:
            filling = image.new_zeros(missing, *image.shape[1:])
            image = torch.cat([image, filling])
        done = []
        for block in image.split(self.size):
            maps = self.network(block)
            done.append(then(maps))
        return [level[:count] for level in _joined(done)]


@dataclass(frozen=True)
class OneThreadEach:
    """An extractor that computes one image on each thread, or `together` if there are many."""

    network: Network
    together: int = 1

    def __call__(self, image: Tensor, then: Then) -> Maps:
        def work(part: Tensor) -> list[Maps]:
            maps = self.network(part)
            return [then(_of_image(maps, row)) for row in range(len(part))]

        done = map_single_threaded(work, self._parts(image))
        return _joined(list(chain.from_iterable(done)))

    def _parts(self, image: Tensor) -> list[Tensor]:
        """Splits into parts of `together` while every thread gets one, then into single images."""
        turn = self.together * torch.get_num_threads()
        in_turns = len(image) // turn * turn
        parts: list[Tensor] = []
        if in_turns:
            parts += image[:in_turns].split(self.together)
        if in_turns < len(image):
            parts += image[in_turns:].split(1)
        return parts


def _of_image(maps: Maps, row: int) -> Maps:
    return [level[row : row + 1] for level in maps]


def _joined(parts: list[Maps]) -> Maps:
    return [torch.cat(maps) for maps in zip(*parts, strict=True)]


class Extraction:
    """Chooses how images go through a network, and holds what was made for its weights.

    That is a fused copy of the network and the features on disk. Neither belongs to a checkpoint or
    to a copy. Both are made anew after `forget`, which must be called when weights are loaded or
    moved.

    Args:
        blocks: how many images go through together, by type of device; the whole batch for a type
            without an entry.
        name: of the network's architecture, for the features on disk.
    """

    def __init__(self, blocks: Mapping[str, int], name: str) -> None:
        self.blocks = blocks
        self.name = name
        self.fused: FusedMaps | None = None
        self._cache: tuple[Path, float] | None = None
        self._disk: DiskFeatures | None = None

    def keep(self, folder: Path, gib: float) -> None:
        """Keeps the maps of images on disk from now on, see `DiskFeatures`."""
        self._cache = (folder, gib)
        self._disk = None

    def forget(self) -> None:
        """Drops what was made for the weights."""
        self.fused = None
        self._disk = None

    def extractor(self, frozen: Frozen, image: Tensor) -> Extractor:
        """Returns the extractor for this batch; the only place that chooses one."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or not len(image):
            return WholeBatch(frozen.plain_maps)
        size = self.blocks.get(image.device.type, len(image))
        compiled = frozen.body._compiled_call_impl is not None
        if image.device.type != "cpu" or size != 1 or compiled:
            return FixedBlocks(frozen.plain_maps, size)
        fused = self._fused_for(frozen, image)
        disk = self._disk_for(frozen, fused is not None)
        network = frozen.plain_maps if fused is None else fused
        if disk is not None:
            return OneThreadEach(lambda one: disk.get(one, network))
        if fused is not None:
            return OneThreadEach(fused, fused.together)
        return OneThreadEach(network)

    def _fused_for(self, frozen: Frozen, image: Tensor) -> "FusedMaps | None":
        """Returns a network that computes the same faster, if there is one for such images."""
        dtype = fusable(image)
        if dtype is None:
            return None
        if self.fused is None or not self.fused.fits(frozen.body, image, dtype):
            self.fused = FusedMaps(frozen, image, dtype)
        return self.fused

    def _disk_for(self, frozen: Frozen, fused: bool) -> DiskFeatures | None:
        """Returns the features on disk, opened for the weights that the first image finds."""
        if self._cache is None or torch.is_autocast_enabled("cpu"):  # which rounds differently
            return None
        if self._disk is None:
            name = f"{self.name} {fused}"
            self._disk = DiskFeatures(*self._cache, frozen.body, name, frozen.layers)
        return self._disk

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what was made for the weights: a copy, in any process, makes its own."""
        return {**vars(self), "fused": None, "_disk": None}


class FusedMaps:
    """The maps of a fused network, with the normalisation before it.

    It is right for the weights that the network had when it was made. That weights are changed in
    place goes unnoticed: nothing here does that.

    Args:
        frozen: the network.
        image: [B, 3, H, W], of the size that it is made for.
        dtype: of its maps.
    """

    def __init__(self, frozen: Frozen, image: Tensor, dtype: torch.dtype) -> None:
        self._made_for = self._key(frozen.body, image, dtype)
        self._mean = frozen.mean
        self._std = frozen.std
        self._layers = frozen.layers
        with one_thread():  # convolutions order their weights for the number of threads, too
            one = image[:1].detach().contiguous(memory_format=torch.channels_last)
            self.network = FusedNetwork(frozen.body, one, dtype)

    @property
    def together(self) -> int:
        """The number of images that may go through at once."""
        return self.network.together

    def fits(self, body: nn.Module, image: Tensor, dtype: torch.dtype) -> bool:
        """Returns whether it was made for this network, and for images of this size and type."""
        return self._made_for == self._key(body, image, dtype)

    def __call__(self, image: Tensor) -> Maps:
        """Returns the maps of one image, or of `together`."""
        normalised = torch.sub(image, self._mean).div_(self._std)
        maps = self.network(normalised.contiguous(memory_format=torch.channels_last))
        return [maps[layer] for layer in self._layers]

    @staticmethod
    def _key(
        body: nn.Module, image: Tensor, dtype: torch.dtype
    ) -> tuple[nn.Module, torch.Size, torch.dtype]:
        return body, image.shape[2:], dtype
