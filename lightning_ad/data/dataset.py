"""Reads an image and its mask; one geometry for both."""

import signal
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_ad.data.geometry import Geometry
from lightning_ad.data.ignoring import fill, read_ignored
from lightning_ad.data.reading import limit_size, read_image, read_mask, read_regions
from lightning_ad.data.sample import Batch, Regions, Sample
from lightning_ad.data.sampler import MIXED, RowKey
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.data.textures import Textures
from lightning_ad.data.tiling import Tiles
from lightning_ad.system.threads import map_single_threaded


class AnomalyDataset(Dataset[Batch]):
    """The samples of one split as batches of one.

    With a `synthesis`, each item also holds a recipe for a synthetic anomaly, a function of (seed, epoch, index).
    With `tiles`, each tile is a row, those of an image one after the other; the last images read are kept.

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
    ) -> None:
        self.samples = samples
        self.geometry = geometry
        self.synthesis = synthesis
        self.textures = textures
        self.seed = seed
        self.tiles = tiles
        self.ignoring = any(
            s.ignore_path is not None or s.ignore_value is not None for s in samples
        )
        self._kept: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.samples) * self.tiles_per_image

    @property
    def tiles_per_image(self) -> int:
        """Tiles, or 1."""
        return 1 if self.tiles is None else len(self.tiles)

    @property
    def names(self) -> list[str]:
        """Of the rows: the image file, and behind it @top,left in pixels where rows are tiles."""
        places = (
            [""] if self.tiles is None else [f"@{top},{left}" for top, left in self.tiles.origins]
        )
        return [sample.path + place for sample in self.samples for place in places]

    def forget(self) -> None:
        """Drops the images that are kept for their other tiles."""
        self._kept.clear()

    def __getitem__(self, key: RowKey | int) -> Batch:
        key = RowKey(key) if isinstance(key, int) else key
        number, tile = divmod(key.index, self.tiles_per_image)
        sample = self.samples[number]
        if self.tiles is None:
            image, mask, ignore = self._read(sample)
        else:
            image, mask, ignore = (self.tiles.cut(whole, tile) for whole in self._whole(number))
        recipe = {}
        if self.synthesis is not None and self.textures is not None:
            rng = np.random.default_rng([self.seed, key.epoch, key.index])
            drawn = self.synthesis.draw(rng, *mask.shape, self.textures)
            recipe = {name: value[None] for name, value in drawn.items()}
        return Batch(
            image=image[None],
            label=torch.tensor([sample.label]),
            mask=mask[None],
            index=torch.tensor([-1 if key.padding else key.index]),
            path=[sample.path],
            defect=[sample.defect],
            recipe=recipe,
            regions=[self._regions(sample, ignore)] if sample.saturations else [],
            ignore=ignore[None] if self.ignoring else None,
        )

    def __getitems__(self, keys: list[RowKey]) -> list[Batch]:
        """Those of a batch, read side by side where there are threads for it (not in a loader's worker)."""
        return (
            [self[key] for key in keys]
            if self.tiles is not None
            else map_single_threaded(self.__getitem__, keys)
        )

    def read(self, path: str) -> Tensor:
        """An image file in the geometry of the data, [3, H, W]."""
        return self.geometry.image(read_image(path))

    def _regions(self, sample: Sample, ignore: Tensor) -> Regions | None:
        """The regions of an image at the size that the network sees, but for those that it does not see."""
        if sample.mask_path is None:
            return None
        regions = read_regions(sample.mask_path, sample.saturations, sample.ignore_value)
        if regions is None:
            return None
        masks = torch.stack([self.geometry.mask(mask) for mask in regions.masks]) & ~ignore
        seen = masks.flatten(1).any(1)
        return Regions(masks[seen], regions.shares[seen])

    def _whole(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """An image whose tiles are wanted in turn with those of others."""
        if number not in self._kept:
            if len(self._kept) == MIXED:
                del self._kept[next(iter(self._kept))]
            self._kept[number] = self._read(self.samples[number])
        return self._kept[number]

    def _read(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        """The image [3, H, W], filled where it is ignored; its mask, and where that is, both [H, W]."""
        full = read_image(sample.path)
        size = full.shape[-2], full.shape[-1]
        mask = ignore = torch.zeros(self.geometry.output, dtype=torch.bool)
        if (ignored := read_ignored(sample, size)) is not None:
            full, ignore = fill(full, ignored), self.geometry.mask(ignored)
        if sample.mask_path is not None:
            whole = read_mask(sample.mask_path, size, sample.mask_threshold, sample.ignore_value)
            mask = self.geometry.mask(whole) & ~ignore
        return self.geometry.image(full), mask, ignore


def begin_worker(megapixels: float, worker: int) -> None:
    """Limits the size of images, and leaves signals to the main process: those to a whole job must not end its workers
    before it has stopped."""
    limit_size(megapixels)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
