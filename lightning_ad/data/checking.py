"""Finds what is wrong with the files of a data set, and which samples can be used."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from lightning_ad.data.depth import Depth
from lightning_ad.data.geometry import Geometry
from lightning_ad.data.ignoring import read_ignored
from lightning_ad.data.mask_rule import same_proportions
from lightning_ad.data.mask_survey import MaskSurvey
from lightning_ad.data.reading import (
    LEGACY,
    check_same_size,
    read_image,
    read_regions,
    read_sample_mask,
    verify,
)
from lightning_ad.data.sample import Sample, Split
from lightning_ad.errors import DataError

OnError = Literal["stop", "skip"]
LISTED = 10  # names in a message
RELEASED = Geometry.of(256, 224)


class Fault(NamedTuple):
    """A sample that cannot be used, and why."""

    sample: Sample
    reason: str


class Findings(NamedTuple):
    """The contents of a data set, and what is wrong with them.

    Attributes:
        faults: samples that cannot be used, in the order of the samples.
        sizes: images by (width, height).
        empty_masks: masks of anomalous images without a defective pixel; such images have no pixel
            truth.
        duplicates: groups of samples of one split and label with the same content.
        masks: what the masks say, and what the crop of the released configurations takes.
        training_depth: of the images for training and validation.
        test_depth: of the test images.
    """

    faults: list[Fault]
    sizes: Counter[tuple[int, int]]
    empty_masks: list[str]
    duplicates: list[list[str]]
    masks: MaskSurvey
    training_depth: Depth
    test_depth: Depth


def check_or_skip(
    samples: Sequence[Sample], on_error: OnError, needed: Collection[Split], geometry: Geometry
) -> tuple[list[Sample], list[Fault]]:
    """Returns the samples that can be used, and those that are skipped.

    Args:
        samples: the samples of a data set.
        on_error: `stop` at a fault, or `skip` the samples that have one, with a warning.
        needed: the splits that `stop` checks.
        geometry: what becomes of the images.

    Raises:
        DataError: naming the files, if there is a fault at which to stop.
    """
    if on_error == "stop":
        stop_at_faults([sample for sample in samples if sample.split in needed], geometry)
        return list(samples), []
    kept, skipped = usable(samples, geometry)
    if skipped:
        first = skipped[0]
        rank_zero_warn(
            f"{len(skipped)} images are left out; the first is {first.sample.path}: {first.reason}"
        )
    return kept, skipped


def missing_masks(samples: Sequence[Sample]) -> list[Sample]:
    """Returns the anomalous samples whose mask is not there."""
    return [
        sample
        for sample in samples
        if sample.mask_path is not None and not os.path.exists(sample.mask_path)
    ]


def stop_at_faults(samples: Sequence[Sample], geometry: Geometry) -> None:
    """Stops if a file is missing, is not whole, or is there twice for different purposes.

    It decodes no image: damaged pixels of a JPEG are found when the image is read.

    Args:
        samples: whose files are looked at.
        geometry: what becomes of the images.

    Raises:
        DataError: naming the files.
    """
    stop_at_missing_masks(samples)
    file_sizes = Counter(_file_size(sample) for sample in samples)

    def glance(sample: Sample) -> _Read:
        return _glance(sample, file_sizes, geometry)

    faults = _faults(samples, _in_threads(glance, samples))
    if not faults:
        return
    path = faults[0].sample.path
    reason = faults[0].reason
    if path not in reason:
        reason = f"{path}: {reason}"
    if len(faults) > 1:
        reason = f"{reason}; {len(faults) - 1} more images cannot be used"
    raise DataError(
        f"{reason}. `lightning-ad datasets check` lists all that is wrong; --data.on_error skip "
        "leaves such images out"
    )


def stop_at_missing_masks(samples: Sequence[Sample]) -> None:
    """Raises DataError if masks are missing, or files of ignored regions, and names them."""
    for sample in samples:
        if sample.ignore_path is not None and not Path(sample.ignore_path).is_file():
            raise DataError(
                f"{sample.path} has no file of ignored regions: expected {sample.ignore_path}"
            )
    missing = missing_masks(samples)
    if not missing:
        return
    first = missing[0]
    others = missing[1:]
    more = ""
    if others:
        more = f"; so have {len(others)} more: {_listed(others)}"
    raise DataError(
        f"the anomalous image {first.path} has no mask: expected {first.mask_path}{more}. Add the "
        "masks, take the images out of the test folder, or leave them out by --data.on_error skip"
    )


def usable(samples: Sequence[Sample], geometry: Geometry) -> tuple[list[Sample], list[Fault]]:
    """Returns the samples that can be used, and those that cannot.

    Reads every image and mask once, on all cores.

    Args:
        samples: whose files are read.
        geometry: what becomes of the images.
    """
    faults = _faults(samples, _in_threads(partial(_read, geometry), samples))
    bad = {id(fault.sample) for fault in faults}
    return [sample for sample in samples if id(sample) not in bad], faults


def examine(samples: Sequence[Sample]) -> Findings:
    """Returns what is in a data set. Reads every image and mask once, on all cores.

    Images must have a size that the released configurations can use.
    """
    reads = _in_threads(partial(_read, RELEASED), samples)
    sizes: Counter[tuple[int, int]] = Counter()
    empty_masks = []
    groups = defaultdict(list)
    for sample, read in zip(samples, reads, strict=True):
        if read.size is not None:
            sizes[read.size] += 1
        if read.has_empty_mask and sample.mask_path is not None:
            empty_masks.append(sample.mask_path)
        if read.content is not None:
            groups[read.content, sample.split, sample.label].append(sample.path)
    duplicates = [paths for paths in groups.values() if len(paths) > 1]
    good = [sample for sample, read in zip(samples, reads, strict=True) if read.wrong is None]
    return Findings(
        _faults(samples, reads),
        sizes,
        empty_masks,
        duplicates,
        MaskSurvey.of(good, RELEASED),
        Depth.of([sample.path for sample in good if sample.split != "test"]),
        Depth.of([sample.path for sample in good if sample.split == "test"]),
    )


class _Read(NamedTuple):
    """The findings of reading one sample.

    Attributes:
        wrong: why it cannot be used; None if it can.
        content: the digest of the image file; None if it was not read.
        size: (width, height).
        has_empty_mask: its mask has no defective pixel.
    """

    wrong: str | None
    content: bytes | None = None
    size: tuple[int, int] | None = None
    has_empty_mask: bool = False


def _in_threads(read: Callable[[Sample], _Read], samples: Sequence[Sample]) -> list[_Read]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(read, samples))


def _read(geometry: Geometry, sample: Sample) -> _Read:
    """Decodes the files of a sample."""
    try:
        return _decoded(sample, geometry)
    except DataError as error:
        return _Read(str(error))


def _decoded(sample: Sample, geometry: Geometry) -> _Read:
    geometry.check(*verify(sample.path))
    for path, kind in _other_files(sample):
        if os.path.isfile(path):
            verify(path, kind)
    height, width = read_image(sample.path).shape[1:]
    read = _Read(None, _digest(sample.path), (width, height))
    if sample.mask_path is not None and not os.path.exists(sample.mask_path):
        return read._replace(wrong=f"it has no mask: expected {sample.mask_path}")
    read_ignored(sample, (height, width))
    if sample.mask_path is None:
        return read
    mask = read_sample_mask(sample, (height, width))
    if sample.saturations:
        read_regions(sample.mask_path, sample.saturations, sample.ignore_value)
    return read._replace(has_empty_mask=not mask.any())


def _glance(sample: Sample, file_sizes: Mapping[int | None, int], geometry: Geometry) -> _Read:
    """Checks the files of a sample as far as this is possible without decoding.

    The content of a file is not read if no other file has its size.
    """
    try:
        size = verify(sample.path)
        geometry.check(*size)
        for path, kind in _other_files(sample):
            if not os.path.isdir(path):
                _check_size_of(path, kind, sample, size)
        if file_sizes[_file_size(sample)] == 1:
            return _Read(None)
        return _Read(None, _digest(sample.path))
    except DataError as error:
        return _Read(str(error))


def _other_files(sample: Sample) -> list[tuple[str, str]]:
    """Returns the files beside the image, and their kinds."""
    files = []
    if sample.mask_path is not None:
        files.append((sample.mask_path, "mask"))
    if sample.ignore_path is not None:
        files.append((sample.ignore_path, "file of ignored regions"))
    return files


def _check_size_of(path: str, kind: str, sample: Sample, size: tuple[int, int]) -> None:
    found = verify(path, kind)
    if found == size:
        return
    if kind == "mask" and sample.mask_reading != LEGACY and same_proportions(found, size):
        return
    # The image may be turned, and say so behind its pixels, where `verify` does not look.
    height, width = read_image(sample.path).shape[1:]
    check_same_size(path, found, (height, width), kind)


def _file_size(sample: Sample) -> int | None:
    if not os.path.isfile(sample.path):
        return None
    return os.stat(sample.path).st_size


def _digest(path: str) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()


@dataclass
class _Uses:
    """The uses of all images of one content: a path for each label, and for each split."""

    by_label: dict[int, str] = field(default_factory=dict)
    by_split: dict[Split, str] = field(default_factory=dict)


def _faults(samples: Sequence[Sample], reads: Sequence[_Read]) -> list[Fault]:
    """Returns the samples that cannot be read, or whose content is used for another purpose too."""
    uses: dict[bytes, _Uses] = defaultdict(_Uses)
    for sample, read in zip(samples, reads, strict=True):
        if read.content is not None:
            uses[read.content].by_label.setdefault(sample.label, sample.path)
            uses[read.content].by_split.setdefault(sample.split, sample.path)
    faults = []
    for sample, read in zip(samples, reads, strict=True):
        reason = read.wrong
        if reason is None and read.content is not None:
            reason = _contradiction(sample, uses[read.content])
        if reason is not None:
            faults.append(Fault(sample, reason))
    return faults


def _contradiction(sample: Sample, uses: _Uses) -> str | None:
    """Returns why a file with these uses, byte for byte the same, cannot be what a sample says."""
    if len(uses.by_label) > 1:
        other = "good" if sample.label else "anomalous"
        return (
            f"the same file is among the good and the anomalous images; it is {other} as "
            f"{uses.by_label[1 - sample.label]}"
        )
    if sample.split != "test" and "test" in uses.by_split:
        return f"the same file is tested, as {uses.by_split['test']}"
    if sample.split == "train" and "validation" in uses.by_split:
        return f"the same file is held out for validation, as {uses.by_split['validation']}"
    return None


def _listed(samples: Sequence[Sample]) -> str:
    names = [Path(sample.path).name for sample in samples[:LISTED]]
    if len(samples) > LISTED:
        names.append("...")
    return ", ".join(names)
