"""Functions that layouts share: listing images, pairing masks with them, choosing a category."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_ad.data.listing import SYSTEM_NAMES, images, subfolders
from lightning_ad.data.sample import Sample, Split
from lightning_ad.errors import DataError, UsageError
from lightning_ad.system.names import known_name, same_letters
from lightning_ad.system.paths import existing

UNLABELLED = "Images without labels are scored by lightning_ad.load(RUN) (docs/python.md)."
__all__ = ["images", "subfolders"]  # which layouts take from here, with the functions below


def images_or_none(folder: Path) -> list[Path]:
    """Returns the `images` of a folder; an empty list if there is no such folder."""
    if not folder.is_dir():
        return []
    return images(folder)


def good_samples(folder: Path, split: Split, recursive: bool = False) -> list[Sample]:
    """Returns the images in a folder of good parts.

    Raises:
        MissingFolderError: if there is no such folder.
    """
    return [Sample(str(image), split) for image in images(folder, recursive=recursive)]


def anomalous_samples(
    found: Sequence[Path], masks: Sequence[Path], defect: str, *, mask_threshold: int
) -> list[Sample]:
    """Returns test images of one kind of defect, with their masks (0: anything but black)."""
    samples = []
    for image, mask in zip(found, masks, strict=True):
        samples.append(Sample(str(image), "test", defect, str(mask), mask_threshold))
    return samples


def category_names(root: Path, marker: str) -> list[str]:
    """Returns the names of the folders in `root` that hold a folder `marker`."""
    return [folder.name for folder in subfolders(root) if (folder / marker).is_dir()]


def category_folder(root: Path, category: str | None, marker: str) -> Path:
    """Returns the folder of a category; without one, `root` itself if it holds `marker`.

    Raises:
        UsageError: if the category is missing or unknown.
        DataError: if there is no folder `marker`.
    """
    if category is not None and _is_category(root, category, marker):
        return root / category
    names = category_names(root, marker)
    if category is not None:
        known = known_name(category, names)
        if known is not None:
            return root / known
        listed = ", ".join(names) or f"no folder with a '{marker}' in it"
        raise UsageError(f"there is no category '{category}' in {root}; there is {listed}")
    if (root / marker).is_dir():
        return root
    if names:
        raise UsageError(
            f"{root} has several categories; set data.category to one of {', '.join(names)}"
        )
    raise DataError(
        f"neither {root} nor a folder in it has a folder '{marker}'; is data.root the right one? "
        f"{UNLABELLED}"
    )


def _is_category(root: Path, category: str, marker: str) -> bool:
    """Looks at one folder: to list all of them for each category takes long if there are many."""
    if category != Path(category).name or category.startswith("."):
        return False
    return category.lower() not in SYSTEM_NAMES and (root / category / marker).is_dir()


def refuse_category(layout: str, category: str | None) -> None:
    """Raises UsageError if a category is named, for a layout that has none."""
    if category is not None:
        raise UsageError(
            f"the layout '{layout}' has no categories; leave data.category out (it is '{category}')"
        )


def partners(images: Sequence[Path], folder: Path, suffixes: tuple[str, ...] = ("",)) -> list[Path]:
    """Returns the mask of each image: the file in `folder` with its stem and one of `suffixes`.

    Earlier suffixes come first. An image without a mask gets the path of a file that is not there:
    missing masks are reported for all layouts in one place.

    Raises:
        DataError: if two of the masks, or of the images, have the same stem: nobody can tell which
            belong together.
    """
    folder = existing(folder)
    masks = _by_stem(images_or_none(folder))
    _by_stem(images)
    return [_partner(image, masks, folder, suffixes) for image in images]


def _partner(image: Path, masks: dict[str, Path], folder: Path, suffixes: tuple[str, ...]) -> Path:
    for suffix in suffixes:
        stem = same_letters(image.stem + suffix)
        if stem in masks:
            return masks[stem]
    return folder / f"{image.stem}{suffixes[0]}.png"


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        stem = same_letters(path.stem)
        if stem in found:
            raise DataError(
                f"{found[stem]} and {path.name} have one name: which mask is of which image? "
                "Rename one of them"
            )
        found[stem] = path
    return found


def seeded_split(paths: Sequence[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Splits sorted paths at random into (kept, held out); `share` is held out, at least one."""
    order = np.random.default_rng(seed).permutation(len(paths))
    count = max(1, round(share * len(paths)))
    held_rows = set(order[:count].tolist())
    kept = []
    held = []
    for row, path in enumerate(paths):
        if row in held_rows:
            held.append(path)
        else:
            kept.append(path)
    return kept, held
