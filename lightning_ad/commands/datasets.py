"""`lightning-ad datasets`: which data sets can be read, and what is wrong with one."""

import argparse
import inspect
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_ad.data.checking import Fault, Findings, examine, missing_masks
from lightning_ad.data.depth import Depth
from lightning_ad.data.ignoring import with_ignored
from lightning_ad.data.layouts import categories, find_samples, layout_module, layout_names
from lightning_ad.data.listing import noting_passed_over
from lightning_ad.data.mask_survey import MUCH
from lightning_ad.data.sample import GOOD, Sample
from lightning_ad.errors import DataError, MissingFolderError, UsageError, UserError
from lightning_ad.reporting.tables import write_faults
from lightning_ad.system.names import show
from lightning_ad.system.paths import with_homes

TABLES = (".csv", ".json", ".parquet")  # what layouts read beside images
SPLITS = ("train", "validation", "test")
SHOWN = 20  # of each kind of finding; --file takes all
SIZES_SHOWN = 5
UNUSED_SHOWN = 3
INDENT = "    "


class _Checked(NamedTuple):
    """What checking a data set found.

    Attributes:
        faults: samples that cannot be used.
        used: the files that samples refer to.
        broken: how many categories cannot be read at all.
    """

    faults: list[Fault]
    used: set[str]
    broken: int


def run(arguments: argparse.Namespace) -> int:
    """Lists the data sets that can be read, or checks the one that is named.

    Returns:
        The exit code: 1 if a file or a category cannot be used.

    Raises:
        UserError: for anything that the user can put right.
    """
    if arguments.action == "check":
        return check(arguments)
    show("\n\n".join(_about(layout) for layout in layout_names()))
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Reads all files of a data set and reports what is wrong with them; returns the exit code."""
    options = _options(arguments.option)
    layout = arguments.layout or _fitting_layout(arguments.root, options)
    names = [arguments.category]
    if arguments.category is None:
        names = _categories(layout, arguments.root, options)
    show(f"{arguments.root} by the layout '{layout}'")
    found = _check_categories(names, layout, options, arguments)
    if arguments.category is None:
        _print_unused_files(arguments.root, found.used)
    if arguments.file:
        write_faults(arguments.file, found.faults)
    remedy = " (--data.on_error skip leaves them out)" if found.faults else ""
    show(f"\n{len(found.faults)} images cannot be used{remedy}")
    if found.broken:
        show(f"{found.broken} of {len(names)} categories cannot be used")
    return 1 if found.faults or found.broken else 0


def _check_categories(
    names: Sequence[str | None],
    layout: str,
    options: Mapping[str, Any],
    arguments: argparse.Namespace,
) -> _Checked:
    """Checks and prints one category after the other; one that is broken does not hide the rest."""
    faults: list[Fault] = []
    used: set[str] = set()
    broken = 0
    for name in names:
        try:
            samples = with_ignored(
                find_samples(layout, arguments.root, name, dict(options)),
                arguments.root,
                with_homes(arguments.ignore),
                arguments.ignore_value,
                allow_no_match=name is not None,
            )
        except DataError as error:
            if len(names) == 1:
                raise
            broken += 1
            show(f"\n{name}: cannot be used: {error}")
            continue
        findings = examine(samples)
        show(f"\n{name or layout}: {_counts(samples)}")
        show("\n".join(_lines(findings)))
        faults += findings.faults
        used |= _files(samples)
    return _Checked(faults, used, broken)


def _about(layout: str) -> str:
    module = layout_module(layout)
    tree = (inspect.getdoc(module) or "").replace("\n", f"\n{INDENT}")
    found = (inspect.getdoc(module.find) or "").partition("\n\n")[0].replace("\n", " ")
    source = f"  from: {module.SOURCE}   licence: {module.LICENCE}"
    return f"{layout}   {found}\n{source}\n{INDENT}{tree}"


def _options(texts: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option {text}: expected NAME=VALUE")
        options[name] = value
    return with_homes(options)


def _categories(layout: str, root: Path, options: Mapping[str, Any]) -> list[str | None]:
    """Returns the categories of a data set, [None] if it has none."""
    return [*categories(layout, root, options)] or [None]


def _fitting_layout(root: Path, options: Mapping[str, Any]) -> str:
    """Returns the layout that fits a tree: it finds good training images and misses fewest masks.

    Raises:
        UsageError: if none or several fit.
        DataError: if there is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    missing_masks_by_layout, doubts = _try_layouts(root, options)
    fewest = min(missing_masks_by_layout.values(), default=0)
    best = [layout for layout, count in missing_masks_by_layout.items() if count == fewest]
    if len(best) > 1 and "demo" in best:  # its tree is MVTec's
        best.remove("demo")
    if len(best) == 1:
        return best[0]
    outcome = f"the layouts {', '.join(best)} fit" if best else "no layout fits"
    reasons = ""
    if doubts and not best:
        reasons = f"\nWhy some of them do not:{doubts}"
    raise UsageError(
        f"{outcome} {root}; name one with --layout (lightning-ad datasets shows their trees)"
        f"{reasons}"
    )


def _try_layouts(root: Path, options: Mapping[str, Any]) -> tuple[dict[str, int], str]:
    """Returns how many masks each possible layout misses, and why some layouts are not possible."""
    missing: dict[str, int] = {}
    doubts = ""
    for layout in layout_names():
        try:
            with warnings.catch_warnings(action="ignore"), noting_passed_over(silent=True):
                samples = _all_samples(layout, root, options)
        except (UserError, OSError) as error:
            if _tells_more_than_a_missing_folder(error):
                doubts += f"\n  {layout}: {error}"
            continue
        if {"train", "test"} <= {sample.split for sample in samples}:
            missing[layout] = len(missing_masks(samples))
    return missing, doubts


def _all_samples(layout: str, root: Path, options: Mapping[str, Any]) -> list[Sample]:
    samples: list[Sample] = []
    for name in _categories(layout, root, options):
        samples += find_samples(layout, root, name, dict(options))
    return samples


def _tells_more_than_a_missing_folder(error: Exception) -> bool:
    return isinstance(error, DataError) and not isinstance(error.__cause__, MissingFolderError)


def _counts(samples: Sequence[Sample]) -> str:
    counts = Counter((sample.split, sample.defect) for sample in samples)
    return ", ".join(
        f"{split} {defect} {counts[split, defect]}"
        for split, defect in sorted(counts, key=_good_ones_first)
    )


def _good_ones_first(kind: tuple[str, str]) -> tuple[int, bool, str]:
    split, defect = kind
    return SPLITS.index(split), defect != GOOD, defect


def _files(samples: Sequence[Sample]) -> set[str]:
    files: set[str | None] = set()
    for sample in samples:
        files |= {sample.path, sample.mask_path, sample.ignore_path}
    return {file for file in files if file is not None}


def _lines(found: Findings) -> Iterator[str]:
    """Yields the findings as lines of text."""
    sizes: list[str] = []
    for (width, height), count in found.sizes.most_common(SIZES_SHOWN):
        sizes.append(f"{width} x {height} px ({count})")
    more = len(found.sizes) - SIZES_SHOWN
    yield f"  sizes: {', '.join(sizes)}" + (f", and {more} more" if more > 0 else "")
    faults = [f"{fault.sample.path}: {fault.reason}" for fault in found.faults]
    yield from _section("cannot be used", faults)
    yield from _section("masks of anomalous images are empty (no pixel truth)", found.empty_masks)
    yield from _depth_lines(found.training_depth, found.test_depth)
    yield from _section(
        f"images are defective on more than {MUCH:.0%} of their pixels by their mask",
        found.masks.mostly_defective,
    )
    yield from _section("masks are resized to the size of their image", found.masks.scaled)
    yield from _section(
        "images lose their whole defect to the released crop (data.image_size 256, "
        "data.center_crop 224)",
        found.masks.cut_off,
    )
    copies = [" = ".join(paths) for paths in found.duplicates]
    yield from _section("files are in one split more than once", copies)


def _depth_lines(training: Depth, test: Depth) -> Iterator[str]:
    """Yields what the values in files of 16 bits are, and whether the splits differ in it."""
    for kind, depth in (("training", training), ("test", test)):
        if depth.has_16_bit_files:
            yield (
                f"  {kind} images of 16 bits have values up to {depth.highest}, as of "
                f"{depth.bits} bits"
            )
    if training.images and test.images and training.bits != test.bits:
        yield (
            f"  the training images have {training.bits} bits, the test images {test.bits}: "
            "is one of them of another camera? (data.bits)"
        )


def _section(title: str, items: Sequence[str]) -> Iterator[str]:
    if not items:
        return
    yield f"  {len(items)} {title}:"
    for item in items[:SHOWN]:
        yield f"{INDENT}{item}"
    if len(items) > SHOWN:
        yield f"{INDENT}... and {len(items) - SHOWN} more"


def _print_unused_files(root: Path, used: set[str]) -> None:
    """Prints files that no sample refers to: an odd one is often a misplaced image or mask."""
    unused: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*")):
        if not path.is_file() or path.suffix in TABLES:
            continue
        if str(path) not in used and str(path.parent) not in used:
            unused.setdefault(path.suffix, []).append(str(path))
    for suffix, paths in sorted(unused.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(paths[:UNUSED_SHOWN])
        if len(paths) > UNUSED_SHOWN:
            shown += ", ..."
        kind = suffix or "without a suffix"
        show(f"\n{len(paths)} files {kind} that the layout does not use: {shown}")
