"""`lightning-ad datasets`: which data sets can be read, and what is wrong with one."""

import argparse
import inspect
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_ad.data.checking import Fault, Findings, examine, missing_masks
from lightning_ad.data.ignoring import with_ignored
from lightning_ad.data.layouts import categories, find_samples, layout_module, layout_names
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError, MissingFolderError, UsageError, UserError
from lightning_ad.reporting.tables import write_faults

TABLES = (".csv", ".json", ".parquet")  # what layouts read beside images
SHOWN = 20  # of each kind of finding; a file takes all


def datasets(args: Sequence[str]) -> int:
    """`lightning-ad datasets`, and `lightning-ad datasets check ROOT`.

    Returns:
        The exit code: 1 where a file or a category cannot be used.

    Raises:
        UserError: for whatever the user can put right.
    """
    parser = argparse.ArgumentParser(
        "lightning-ad datasets", description="The data sets that can be read."
    )
    commands = parser.add_subparsers(dest="command")
    check = commands.add_parser(
        "check", help="read all files of a data set, and say what is wrong with them"
    )
    check.add_argument("root", type=Path)
    check.add_argument("--layout", help="how its folders lie; found out where it is left out")
    check.add_argument("--category", help="one category instead of all")
    check.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the layout (repeatable)",
    )
    check.add_argument(
        "--ignore", help="an image, or a folder of images, of regions that are not to be looked at"
    )
    check.add_argument("--ignore_value", type=int, help="of ignored pixels in the masks")
    check.add_argument(
        "--file", type=Path, help="write every file that cannot be used, and why, as CSV"
    )
    wanted = parser.parse_args(args)
    if wanted.command is None:
        print("\n\n".join(map(_about, layout_names())))
        return 0
    options = dict(_option(text) for text in wanted.option)
    layout = wanted.layout or _guess(wanted.root, options)
    names = (
        [wanted.category] if wanted.category else categories(layout, wanted.root, options) or [None]
    )
    print(f"{wanted.root} by the layout '{layout}'")
    faults: list[Fault] = []
    used: set[str] = set()
    broken = 0
    for name in names:
        try:
            samples = find_samples(layout, wanted.root, name, options)
            samples = with_ignored(
                samples, wanted.root, wanted.ignore, wanted.ignore_value, partly=name is not None
            )
        except DataError as error:
            if len(names) == 1:
                raise
            broken += 1
            print(f"\n{name}: cannot be used: {error}")
            continue
        found = examine(samples)
        faults += found.faults
        used |= {
            path
            for s in samples
            for path in (s.path, s.mask_path, s.ignore_path)
            if path is not None
        }
        print(f"\n{name or layout}: {_counts(samples)}\n{_told(found)}")
    _print_unused(wanted.root, used, all_of_it=wanted.category is None)
    if wanted.file:
        write_faults(wanted.file, faults)
    print(
        f"\n{len(faults)} images cannot be used"
        + (" (--data.on_error skip leaves them out)" if faults else "")
    )
    if broken:
        print(f"{broken} of {len(names)} categories cannot be used")
    return 1 if faults or broken else 0


def _about(layout: str) -> str:
    module = layout_module(layout)
    tree = "\n".join(f"    {line}" for line in (inspect.getdoc(module) or "").splitlines())
    found = (inspect.getdoc(module.find) or "").partition("\n\n")[0].replace("\n", " ")
    return f"{layout}   {found}\n  from: {module.SOURCE}   licence: {module.LICENCE}\n{tree}"


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--option {text}: expected NAME=VALUE")
    return name, value


def _guess(root: Path, options: dict[str, Any]) -> str:
    """The layout that fits a tree: of those that find good training images, the one that misses the fewest masks."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    fits: dict[str, int] = {}
    doubts = []
    for layout in layout_names():
        try:
            names = categories(layout, root, options) or [None]
            samples = [s for name in names for s in find_samples(layout, root, name, options)]
        except (UserError, OSError) as error:
            if isinstance(error, DataError) and not isinstance(error.__cause__, MissingFolderError):
                doubts.append(f"\n  {layout}: {error}")
            continue
        if any(s.split == "train" for s in samples) and any(s.split == "test" for s in samples):
            fits[layout] = len(missing_masks(samples))
    best = [layout for layout, missing in fits.items() if missing == min(fits.values())]
    best = [layout for layout in best if layout != "demo"] or best  # a tree like MVTec's
    if len(best) != 1:
        what = f"the layouts {', '.join(best)} fit" if best else "no layout fits"
        told = (
            "".join(["\nWhat keeps some of them from it:", *doubts]) if doubts and not best else ""
        )
        raise UsageError(
            f"{what} {root}; name one with --layout (lightning-ad datasets shows their trees){told}"
        )
    return best[0]


def _counts(samples: Sequence[Sample]) -> str:
    found = Counter((s.split, s.defect) for s in samples)
    order = sorted(
        found, key=lambda k: (("train", "validation", "test").index(k[0]), k[1] != "good", k[1])
    )
    return ", ".join(f"{split} {defect} {found[split, defect]}" for split, defect in order)


def _told(found: Findings) -> str:
    """The findings as lines of text."""
    common = [
        f"{width} x {height} px ({count})" for (width, height), count in found.sizes.most_common(5)
    ]
    lines = [
        f"  sizes: {', '.join(common)}"
        + (f", and {len(found.sizes) - 5} more" if len(found.sizes) > 5 else "")
    ]
    lines += _some("cannot be used", [f"{f.sample.path}: {f.reason}" for f in found.faults])
    lines += _some("masks of anomalous images are empty (no pixel truth)", found.empty_masks)
    lines += _some(
        "files are in one split more than once", [" = ".join(paths) for paths in found.duplicates]
    )
    return "\n".join(lines)


def _some(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = [f"    ... and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return [f"  {len(items)} {title}:", *(f"    {item}" for item in items[:SHOWN]), *more]


def _print_unused(root: Path, used: set[str], all_of_it: bool) -> None:
    """Files that no sample refers to, by kind; an odd one is often a misplaced image or mask."""
    if not all_of_it:
        return
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix not in TABLES]
    unused = [p for p in files if str(p) not in used and str(p.parent) not in used]
    for suffix, count in Counter(p.suffix for p in unused).most_common():
        some = [str(p) for p in unused if p.suffix == suffix]
        shown = ", ".join(some[:3]) + (", ..." if count > 3 else "")
        print(
            f"\n{count} files {suffix or 'without a suffix'} that the layout does not use: {shown}"
        )
