"""Ignored regions (`data.ignore`): what they show changes nothing that is learned or found."""

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

from lightning_ad.data.listing import images, noting_passed_over
from lightning_ad.data.reading import read_nonzero, read_value
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError, UsageError
from lightning_ad.system.names import same_letters


def with_ignored(
    samples: Sequence[Sample],
    root: Path,
    ignore: str | None,
    value: int | None,
    allow_no_match: bool = False,
) -> list[Sample]:
    """Returns the samples with their ignored regions.

    Args:
        samples: the samples of a data set.
        root: its folder.
        ignore: an image file for all samples, or a folder, in which the file of a sample has the
            sample's own path under `root`, with any suffix; a sample without one has no ignored
            region. None for neither.
        value: the value of ignored pixels in the masks, 1 to 255; None for none.
        allow_no_match: the folder may hold files of other categories only.

    Raises:
        UsageError: if the value is another, or the samples have their files already.
        DataError: if `ignore` does not exist, or no file in it is that of a sample, unless that is
            allowed.
    """
    if value is not None:
        samples = _with_value(samples, value)
    if ignore is None:
        return list(samples)
    if any(sample.ignore_path is not None for sample in samples):
        raise UsageError(
            "data.ignore and the table's column ignore are both given; leave out one of them"
        )
    path = Path(ignore)
    if path.is_file():
        return [replace(sample, ignore_path=ignore) for sample in samples]
    if path.is_dir():
        return _with_files_of_folder(samples, root, path, allow_no_match)
    raise DataError(
        f"data.ignore {ignore} is not there; expected an image, or a folder with one for each image"
    )


def _with_value(samples: Sequence[Sample], value: int) -> list[Sample]:
    if not 1 <= value <= 255:
        raise UsageError(f"data.ignore_value: expected a value of the masks, 1 to 255, got {value}")
    return [replace(sample, ignore_value=value) for sample in samples]


def _with_files_of_folder(
    samples: Sequence[Sample], root: Path, folder: Path, allow_no_match: bool
) -> list[Sample]:
    files = _images_by_name(folder)
    names = [_name_under(root, sample) for sample in samples]
    count = sum(name in files for name in names)
    if samples and count == 0:
        message = (
            f"no file in data.ignore {folder} is that of an image: for {samples[0].path}, "
            f"expected {folder / names[0]}.png"
        )
        if not allow_no_match:
            raise DataError(message)
        rank_zero_warn(message)
    rank_zero_info(f"{count} of {len(samples)} images have a file of ignored regions in {folder}.")
    found = []
    for sample, name in zip(samples, names, strict=True):
        if name in files:
            sample = replace(sample, ignore_path=str(files[name]))
        found.append(sample)
    return found


def _images_by_name(folder: Path) -> dict[Path, Path]:
    """Returns the images below a folder by their paths in it, without suffix.

    Raises:
        DataError: if two have one name.
    """
    with noting_passed_over():
        files = images(folder, recursive=True)
    found: dict[Path, Path] = {}
    for file in files:
        name = Path(same_letters(str(file.relative_to(folder).with_suffix(""))))
        if name in found:
            raise DataError(
                f"{found[name]} and {file.name} have one name: which one is of the image? Remove "
                "the other"
            )
        found[name] = file
    return found


def _name_under(root: Path, sample: Sample) -> Path:
    """Returns the path of a sample's image under the root, without suffix."""
    path = os.path.abspath(sample.path)
    top = os.path.abspath(root)
    if not Path(path).is_relative_to(top):
        path = os.path.realpath(path)
        top = os.path.realpath(root)
    return Path(same_letters(os.path.relpath(path, top))).with_suffix("")


def read_ignored(sample: Sample, size: tuple[int, int]) -> Tensor | None:
    """Reads the ignored region of a sample, bool [h, w]; None if it has no pixel.

    Raises:
        DataError: naming the file, if it cannot be read or has another size (h, w), or if every
            pixel is ignored.
    """
    parts = []
    if sample.ignore_path is not None:
        parts.append(read_nonzero(sample.ignore_path, size, "file of ignored regions"))
    if sample.ignore_value is not None and sample.mask_path is not None:
        parts.append(read_value(sample.mask_path, size, sample.ignore_value))
    if not parts:
        return None
    ignored = torch.stack(parts).any(0)
    if ignored.all():
        raise DataError(
            f"every pixel of {sample.path} is ignored; leave the image out, or ignore less of it"
        )
    if not ignored.any():
        return None
    return ignored


def fill(image: Tensor, ignored: Tensor) -> Tensor:
    """Fills each ignored pixel, bool [h, w], of an image [3, h, w] with the nearest kept colour.

    A network looks beyond a pixel: whatever stayed there would change what it says of others. The
    nearest colour makes no edge that would look like a defect.
    """
    targets, sources = _nearest(np.packbits(ignored.numpy()).tobytes(), *ignored.shape)
    filled = image.flatten(1).clone()
    filled[:, targets] = filled[:, sources]
    return filled.view_as(image)


@lru_cache(maxsize=1)  # all images often share one file
def _nearest(packed: bytes, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Returns the places of the ignored pixels, and of the nearest kept pixel of each."""
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=height * width)
    ignored = bits.reshape(height, width).astype(bool)
    row, column = distance_transform_edt(ignored, return_distances=False, return_indices=True)
    nearest = (row * width + column)[ignored].astype(np.int64)
    return torch.from_numpy(np.flatnonzero(ignored)), torch.from_numpy(nearest)
