"""The test images of a run with their masks and maps, read again for its report and dashboards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.ignoring import read_ignored
from lightning_ad.data.reading import FULL_DEPTH, read_image, read_sample_mask
from lightning_ad.data.sample import Sample
from lightning_ad.reporting.maps import read_map
from lightning_ad.reporting.pictures import Map, Mask, Picture, as_picture, colour_scale, hatch
from lightning_ad.reporting.tables import ImageResult
from lightning_ad.system.progress import counting

ReadPicture = Callable[[ImageResult], tuple[Picture, Mask]]


@dataclass(frozen=True)
class RunImages:
    """The test images of a run.

    Attributes:
        rows: one for each image.
        read: returns the image uint8 [H, W, 3] of a row as the network sees it, and its true
            mask bool [H, W], empty if there is none.
        folder: the run folder, from which the rows' `map_path` starts.
    """

    rows: Sequence[ImageResult]
    read: ReadPicture
    folder: Path

    def map(self, row: ImageResult) -> Map | None:
        """Reads the anomaly map of a row, [H, W]; None if none was written."""
        if row.map_path is None:
            return None
        return read_map(self.folder / row.map_path).numpy()

    @cached_property
    def colour_scale(self) -> tuple[float, float]:
        """The scores at which the colours of all heat maps start and end."""
        mapped = [row for row in self.rows if row.map_path]

        def map_of(number: int) -> Map:
            map = read_map(self.folder / str(mapped[number].map_path)).numpy()
            advance(1)
            return map

        with counting(len(mapped), "colour scale", "map") as advance:
            return colour_scale([row.label for row in mapped], map_of)


def picture_reader(data: AnomalyDataModule) -> ReadPicture:
    """Makes a reader of test images and masks: ignored regions are hatched, and not in the mask."""
    samples = {sample.path: sample for sample in data.samples["test"]}

    def read(row: ImageResult) -> tuple[Picture, Mask]:
        sample = samples[row.path]
        image = read_image(sample.path, FULL_DEPTH if data.bits is None else data.bits)
        size = (image.shape[-2], image.shape[-1])
        picture = as_picture(data.geometry.image(image))
        mask = _read_mask(data, sample, size)
        ignored = read_ignored(sample, size)
        if ignored is not None:
            ignored = data.geometry.mask(ignored)
            picture = hatch(picture, ignored.numpy())
            mask = mask & ~ignored
        return picture, mask.numpy()

    return read


def _read_mask(data: AnomalyDataModule, sample: Sample, size: tuple[int, int]) -> Tensor:
    if sample.mask_path is None:
        return torch.zeros(data.geometry.output, dtype=torch.bool)
    return data.geometry.mask(read_sample_mask(sample, size))
