"""Regions that are not to be looked at (`data.ignore`): what they show changes nothing that is learned or found."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from lightning_ad.data.layouts._files import IMAGE_SUFFIXES
from lightning_ad.data.reading import read_nonzero, read_value
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError, UsageError


def with_ignored(
    samples: Sequence[Sample],
    root: Path,
    ignore: str | None,
    value: int | None,
    partly: bool = False,
) -> list[Sample]:
    """The samples, with the files of their ignored regions.

    Args:
        samples: of a data set.
        root: its folder.
        ignore: an image file for all samples, or a folder: the file of a sample has the sample's own path under
            `root`, of any suffix; a sample without one has no ignored region.
        value: in 1..255, of ignored pixels in the masks.
        partly: the samples are one category of the data set, and the folder may be about others.

    Raises:
        UsageError: for another value, or where the samples know their files already.
        DataError: where `ignore` is not there, or no file in it is that of a sample and not `partly`.
    """
    if value is not None:
        if not 1 <= value <= 255:
            raise UsageError(
                f"data.ignore_value is a value of the masks, from 1 to 255; {value} came"
            )
        samples = [replace(s, ignore_value=value) for s in samples]
    if ignore is None:
        return [*samples]
    if any(s.ignore_path is not None for s in samples):
        raise UsageError(
            "data.ignore and the table's column ignore are both given; leave out one of them"
        )
    path = Path(ignore)
    if path.is_file():
        return [replace(s, ignore_path=ignore) for s in samples]
    if not path.is_dir():
        raise DataError(
            f"data.ignore {ignore} is not there; expected an image, or a folder of one for each image"
        )
    top = os.path.abspath(root)
    files = {
        f.relative_to(path).with_suffix(""): f
        for f in path.rglob("*")
        if f.suffix.lower() in IMAGE_SUFFIXES
    }
    places = [Path(os.path.relpath(os.path.abspath(s.path), top)) for s in samples]
    found = [files.get(place.with_suffix("")) for place in places]
    count = sum(f is not None for f in found)
    if samples and not count:
        none = (
            f"no file in data.ignore {ignore} is that of an image: for {samples[0].path}, "
            f"{path / places[0].with_suffix('.png')} was expected"
        )
        if not partly:
            raise DataError(none)
        rank_zero_warn(none)
    rank_zero_info(f"{count} of {len(samples)} images have a file of ignored regions in {ignore}.")
    return [
        s if f is None else replace(s, ignore_path=str(f))
        for s, f in zip(samples, found, strict=True)
    ]


def read_ignored(sample: Sample, size: tuple[int, int]) -> Tensor | None:
    """Where a sample is ignored, bool [h, w]; None where there is no such pixel.

    Raises:
        DataError: naming the file, where it is unreadable or not of `size` (h, w), or where nothing is left.
    """
    parts = []
    if sample.ignore_path is not None:
        parts.append(read_nonzero(sample.ignore_path, size, "file of ignored regions"))
    if sample.ignore_value is not None and sample.mask_path is not None:
        parts.append(read_value(sample.mask_path, size, sample.ignore_value))
    ignored = torch.stack(parts).any(0) if parts else torch.zeros(size, dtype=torch.bool)
    if ignored.all():
        raise DataError(
            f"every pixel of {sample.path} is ignored; leave the image out, or ignore less of it"
        )
    return ignored if bool(ignored.any()) else None


def fill(image: Tensor, ignored: Tensor) -> Tensor:
    """The image [3, h, w] with each ignored pixel, bool [h, w], in the colour of the nearest one that is kept.

    A network looks beyond a pixel: whatever stayed there would reach what it says of others. The nearest colour has no
    edge that would look like a defect.
    """
    targets, sources = _nearest(np.packbits(ignored.numpy()).tobytes(), *ignored.shape)
    filled = image.flatten(1).clone()
    filled[:, targets] = filled[:, sources]
    return filled.view_as(image)


@lru_cache(maxsize=1)  # one file often is that of all images
def _nearest(packed: bytes, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The ignored pixels, and the kept ones that are nearest to them, counted through the image."""
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=height * width)
    ignored = bits.reshape(height, width).astype(bool)
    row, column = distance_transform_edt(ignored, return_distances=False, return_indices=True)
    return torch.from_numpy(np.flatnonzero(ignored)), torch.from_numpy(
        (row * width + column)[ignored].astype(np.int64)
    )
