"""The data set of one split: reads an image and its mask, in one geometry."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_ad.data.geometry import Geometry
from lightning_ad.data.ignoring import fill, read_ignored
from lightning_ad.data.reading import (
    FULL_DEPTH,
    Bits,
    read_image,
    read_regions,
    read_sample_mask,
)
from lightning_ad.data.sample import Batch, Regions, Sample
from lightning_ad.data.sampler import MIXED, RowKey
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.data.textures import Textures
from lightning_ad.data.tiling import Tiles
from lightning_ad.system.threads import map_single_threaded


class _Item(NamedTuple):
    """An image [3, H, W], filled where it is ignored; its mask and where it is ignored, [H, W]."""

    image: Tensor
    mask: Tensor
    ignore: Tensor

    def cut(self, tiles: Tiles, number: int) -> Self:
        return self._replace(
            image=tiles.cut(self.image, number),
            mask=tiles.cut(self.mask, number),
            ignore=tiles.cut(self.ignore, number),
        )


class AnomalyDataset(Dataset[Batch]):
    """The samples of one split as batches of one.

    With a `synthesis`, each item also holds a recipe for a synthetic anomaly, a function of (seed,
    epoch, index). With `tiles`, each tile is a row, those of an image one after the other; the last
    images read are kept.

    Raises:
        DataError: on reading, naming the file.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        geometry: Geometry,
        synthesis: Synthesis | None = None,
        textures: Textures | None = None,
        seed: int = 0,
        tiles: Tiles | None = None,
        bits: Bits | None = None,
    ) -> None:
        self.samples = samples
        self.geometry = geometry
        self.synthesis = synthesis
        self.textures = textures
        self.seed = seed
        self.tiles = tiles
        self.bits: Bits = FULL_DEPTH if bits is None else bits
        self._has_ignored = any(_may_be_ignored(sample) for sample in samples)
        self._kept: dict[int, _Item] = {}

    def __len__(self) -> int:
        return len(self.samples) * self.tiles_per_image

    @property
    def tiles_per_image(self) -> int:
        """Rows of each image: its tiles, or 1."""
        if self.tiles is None:
            return 1
        return len(self.tiles)

    @property
    def input_size(self) -> tuple[int, int]:
        """[h, w] of each row: an image, or a tile."""
        return self.geometry.output if self.tiles is None else self.tiles.shape

    @property
    def names(self) -> list[str]:
        """Each row's image file, with @top,left in pixels behind it if rows are tiles."""
        if self.tiles is None:
            return [sample.path for sample in self.samples]
        found = []
        for sample in self.samples:
            for top, left in self.tiles.origins:
                found.append(f"{sample.path}@{top},{left}")
        return found

    def forget(self) -> None:
        """Drops the images that are kept for their other tiles."""
        self._kept.clear()

    def __getitem__(self, key: RowKey | int) -> Batch:
        if isinstance(key, int):
            key = RowKey(key)
        number, tile = divmod(key.index, self.tiles_per_image)
        sample = self.samples[number]
        if self.tiles is None:
            item = self._read(sample)
        else:
            item = self._whole(number).cut(self.tiles, tile)
        index = -1 if key.padding else key.index
        regions = []
        if sample.saturations:
            regions.append(self._regions(sample, item.ignore))
        return Batch(
            image=item.image[None],
            label=torch.tensor([sample.label]),
            mask=item.mask[None],
            index=torch.tensor([index]),
            path=[sample.path],
            defect=[sample.defect],
            recipe=self._recipe(key, *item.mask.shape),
            regions=regions,
            ignore=item.ignore[None] if self._has_ignored else None,
        )

    def __getitems__(self, keys: list[RowKey]) -> list[Batch]:
        """Reads the rows of a batch, in threads if this process has some (a worker has none)."""
        if self.tiles is not None:
            return [self[key] for key in keys]
        return map_single_threaded(self.__getitem__, keys)

    def read(self, path: str) -> Tensor:
        """Reads an image file in the geometry of the data, [3, H, W]."""
        return self.geometry.image(read_image(path, self.bits))

    def _recipe(self, key: RowKey, height: int, width: int) -> dict[str, Tensor]:
        """Draws a synthetic anomaly for a row; empty if none are drawn."""
        if self.synthesis is None or self.textures is None:
            return {}
        rng = np.random.default_rng([self.seed, key.epoch, key.index])
        drawn = self.synthesis.draw(rng, height, width, self.textures)
        return {name: value[None] for name, value in drawn.items()}

    def _regions(self, sample: Sample, ignore: Tensor) -> Regions | None:
        """Reads the regions of an image at the network's size, without those that it cannot see."""
        if sample.mask_path is None:
            return None
        regions = read_regions(sample.mask_path, sample.saturations, sample.ignore_value)
        if regions is None:
            return None
        masks = torch.stack([self.geometry.mask(mask) for mask in regions.masks]) & ~ignore
        seen = masks.flatten(1).any(1)
        return Regions(masks[seen], regions.shares[seen])

    def _whole(self, number: int) -> _Item:
        """Reads an image, or takes it from those that are kept for their other tiles."""
        if number not in self._kept:
            if len(self._kept) == MIXED:
                oldest = next(iter(self._kept))
                del self._kept[oldest]
            self._kept[number] = self._read(self.samples[number])
        return self._kept[number]

    def _read(self, sample: Sample) -> _Item:
        full = read_image(sample.path, self.bits)
        size = (full.shape[-2], full.shape[-1])
        ignore = torch.zeros(self.geometry.output, dtype=torch.bool)
        mask = ignore
        ignored = read_ignored(sample, size)
        if ignored is not None:
            full = fill(full, ignored)
            ignore = self.geometry.mask(ignored)
        if sample.mask_path is not None:
            whole = read_sample_mask(sample, size)
            mask = self.geometry.mask(whole) & ~ignore
        return _Item(self.geometry.image(full), mask, ignore)


def _may_be_ignored(sample: Sample) -> bool:
    return sample.ignore_path is not None or sample.ignore_value is not None
