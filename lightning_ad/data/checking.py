"""What is wrong with the files of a data set, and which of them can be used."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from lightning_ad.data.ignoring import read_ignored
from lightning_ad.data.reading import read_image, read_mask, read_regions, same_size, verify
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError


class Fault(NamedTuple):
    """A sample that cannot be used, and why."""

    sample: Sample
    reason: str


class Findings(NamedTuple):
    """What a data set holds.

    Attributes:
        faults: samples that cannot be used, in the order of the samples.
        sizes: images by (width, height).
        empty_masks: masks of anomalous images without a defective pixel; such images have no pixel truth.
        duplicates: groups of samples of one split and label with the same content.
    """

    faults: list[Fault]
    sizes: Counter[tuple[int, int]]
    empty_masks: list[str]
    duplicates: list[list[str]]


def missing_masks(samples: Sequence[Sample]) -> list[Sample]:
    """Anomalous samples whose mask is not there."""
    return [s for s in samples if s.mask_path is not None and not os.path.exists(s.mask_path)]


def stop_at_faults(samples: Sequence[Sample]) -> None:
    """Stops where a file is missing, is no whole image, or is there twice for different ends; decodes no image.

    What only decoding tells, damaged pixels of a JPEG, is found as an image is read.

    Raises:
        DataError: naming the files.
    """
    stop_at_missing_masks(samples)
    sizes = Counter(os.stat(s.path).st_size for s in samples if os.path.isfile(s.path))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reads = list(pool.map(lambda sample: _glance(sample, sizes), samples))
    if not (faults := _faults(samples, reads)):
        return
    path, reason = faults[0].sample.path, faults[0].reason
    more = f"; {len(faults) - 1} more images cannot be used" if faults[1:] else ""
    raise DataError(
        f"{reason if path in reason else f'{path}: {reason}'}{more}. `lightning-ad datasets check` lists all that is "
        "wrong; --data.on_error skip leaves such images out"
    )


def stop_at_missing_masks(samples: Sequence[Sample]) -> None:
    """Raises DataError, naming them, where masks are missing, or files of ignored regions."""
    for sample in samples:
        if sample.ignore_path is not None and not Path(sample.ignore_path).is_file():
            raise DataError(
                f"{sample.path} has no file of ignored regions: expected {sample.ignore_path}"
            )
    if not (missing := missing_masks(samples)):
        return
    more = f"; so have {len(missing) - 1} more: {_listed(missing[1:])}" if missing[1:] else ""
    raise DataError(
        f"the anomalous image {missing[0].path} has no mask: expected {missing[0].mask_path}{more}. "
        "Add the masks, take the images out of the test folder, or leave them out by --data.on_error skip"
    )


def usable(samples: Sequence[Sample]) -> tuple[list[Sample], list[Fault]]:
    """The samples that can be used, and those that cannot. Reads every image and mask once, on all cores."""
    faults = _faults(samples, _read_all(samples))
    bad = {id(f.sample) for f in faults}
    return [s for s in samples if id(s) not in bad], faults


def examine(samples: Sequence[Sample]) -> Findings:
    """Everything that can be said of a data set. Reads every image and mask once, on all cores."""
    reads = _read_all(samples)
    groups = defaultdict(list)
    for sample, read in zip(samples, reads, strict=True):
        if read.content is not None:
            groups[read.content, sample.split, sample.label].append(sample.path)
    return Findings(
        _faults(samples, reads),
        Counter(read.size for read in reads if read.size is not None),
        [s.mask_path for s, read in zip(samples, reads, strict=True) if read.empty and s.mask_path],
        [paths for paths in groups.values() if len(paths) > 1],
    )


class _Read(NamedTuple):
    """What reading a sample gave: what is wrong, the image's digest and size, whether its mask is empty."""

    wrong: str | None
    content: bytes | None = None
    size: tuple[int, int] | None = None
    empty: bool = False


def _read_all(samples: Sequence[Sample]) -> list[_Read]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_read, samples))


def _read(sample: Sample) -> _Read:
    try:
        kinds = {
            sample.path: "image",
            sample.mask_path: "mask",
            sample.ignore_path: "file of ignored regions",
        }
        for path, kind in kinds.items():
            if path is not None and Path(path).is_file():
                verify(path, kind)
        height, width = read_image(sample.path).shape[1:]
        content = _digest(sample.path)
        if sample.mask_path is not None and not Path(sample.mask_path).exists():
            return _Read(f"it has no mask: expected {sample.mask_path}", content, (width, height))
        read_ignored(sample, (height, width))
        if sample.mask_path is None:
            return _Read(None, content, (width, height))
        mask = read_mask(
            sample.mask_path, (height, width), sample.mask_threshold, sample.ignore_value
        )
        if sample.saturations:
            read_regions(sample.mask_path, sample.saturations, sample.ignore_value)
        return _Read(None, content, (width, height), empty=not mask.any())
    except DataError as error:
        return _Read(str(error))


def _glance(sample: Sample, sizes: Mapping[int, int]) -> _Read:
    """As `_read`, but for what takes decoding; the content of a file whose size is no other's is not looked at."""
    try:
        size = verify(sample.path)
        for path, kind in (
            (sample.mask_path, "mask"),
            (sample.ignore_path, "file of ignored regions"),
        ):
            if path is None or os.path.isdir(path):
                continue
            if (
                came := verify(path, kind)
            ) != size:  # or the image is turned, and says so behind its pixels
                same_size(path, came, tuple(read_image(sample.path).shape[1:]), kind)
        alone = sizes[os.stat(sample.path).st_size] == 1
        return _Read(None, None if alone else _digest(sample.path))
    except DataError as error:
        return _Read(str(error))


def _digest(path: str) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()


def _faults(samples: Sequence[Sample], reads: Sequence[_Read]) -> list[Fault]:
    """Unreadable samples; good ones that are anomalous too; and images of the training that validate or test."""
    used: dict[str, dict[bytes, str]] = {"validation": {}, "test": {}}
    labels: dict[bytes, dict[int, str]] = defaultdict(dict)
    for sample, read in zip(samples, reads, strict=True):
        if read.content is not None:
            labels[read.content].setdefault(sample.label, sample.path)
            if sample.split in used:
                used[sample.split].setdefault(read.content, sample.path)
    faults = []
    for sample, read in zip(samples, reads, strict=True):
        reason = read.wrong
        if reason is None and read.content is not None:
            reason = _misplaced(sample, read.content, labels[read.content], used)
        if reason is not None:
            faults.append(Fault(sample, reason))
    return faults


def _misplaced(
    sample: Sample, content: bytes, labels: dict[int, str], used: dict[str, dict[bytes, str]]
) -> str | None:
    """Why an image of this content cannot be what it is said to be; files are the same byte for byte."""
    if len(labels) > 1:
        kind = "good" if sample.label else "anomalous"
        return f"the same file is among the good and the anomalous images; it is {kind} as {labels[1 - sample.label]}"
    if sample.split != "test" and content in used["test"]:
        return f"the same file is tested, as {used['test'][content]}"
    if sample.split == "train" and content in used["validation"]:
        return f"the same file is held out for validation, as {used['validation'][content]}"
    return None


def _listed(samples: Sequence[Sample], most: int = 10) -> str:
    names = [Path(s.path).name for s in samples]
    return ", ".join(names[:most] + ["..."] * (len(names) > most))
