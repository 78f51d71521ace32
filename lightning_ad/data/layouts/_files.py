"""What the layouts have in common: listing images, pairing masks, choosing a category."""

from pathlib import Path

import numpy as np

from lightning_ad.data.sample import Sample, Split
from lightning_ad.errors import DataError, MissingFolderError, UsageError

SUFFIXES = ["png", "jpg", "jpeg", "jfif", "jp2", "bmp", "tif", "tiff", "webp", "pgm", "ppm", "pbm"]
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in SUFFIXES)


def images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The image files of a folder, sorted by name; hidden files are passed over.

    Raises:
        MissingFolderError: where it is not there.
    """
    if not folder.is_dir():
        raise MissingFolderError(f"there is no folder {folder}, where images were expected")
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
    )


def good_samples(folder: Path, split: Split, recursive: bool = False) -> list[Sample]:
    """The images of a folder of good parts.

    Raises:
        MissingFolderError: where it is not there.
    """
    return [Sample(str(p), split) for p in images(folder, recursive=recursive)]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name; hidden ones are passed over."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def category_names(root: Path, marker: str) -> list[str]:
    """The folders in `root` that hold `marker`."""
    return [p.name for p in subfolders(root) if (p / marker).is_dir()]


def category_folder(root: Path, category: str | None, marker: str) -> Path:
    """The folder of a category: `root` itself holds `marker` where the data set has a single one.

    Raises:
        UsageError: where the category is missing, unknown, or not wanted.
    """
    there = category_names(root, marker)
    if category is None:
        if (root / marker).is_dir():
            return root
        if there:
            raise UsageError(
                f"{root} has several categories; set data.category to one of {', '.join(there)}"
            )
        raise DataError(
            f"neither {root} nor a folder in it has a folder '{marker}'; is data.root the right one?"
        )
    if category not in there:
        listed = ", ".join(there) if there else f"no folder with a '{marker}' in it"
        raise UsageError(f"there is no category '{category}' in {root}; there is {listed}")
    return root / category


def partners(images: list[Path], folder: Path, suffixes: tuple[str, ...] = ("",)) -> list[Path]:
    """The mask of each image: the file in `folder` with the image's stem and one of `suffixes`, in that order.

    Where there is none, the path of a file that is not there: that it is missing is told for all layouts in one place.

    Raises:
        DataError: where two of the masks, or of the images, have one stem: nobody can tell which belong together.
    """
    masks = _by_stem(images_or_none(folder))
    _by_stem(images)
    found = [
        next((masks[i.stem + s] for s in suffixes if i.stem + s in masks), None) for i in images
    ]
    return [m or folder / f"{i.stem}{suffixes[0]}.png" for i, m in zip(images, found, strict=True)]


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if (other := found.setdefault(path.stem, path)) != path:
            raise DataError(
                f"{other} and {path.name} have one name: which mask is of which image? Rename one of them"
            )
    return found


def images_or_none(folder: Path) -> list[Path]:
    """`images`, or an empty list where the folder is missing."""
    return images(folder) if folder.is_dir() else []


def seeded_split(paths: list[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Splits sorted paths at random into (kept, held out), the latter `share` of them, at least one."""
    order = np.random.default_rng(seed).permutation(len(paths))
    count = max(1, round(share * len(paths)))
    held = set(order[:count].tolist())
    return [p for i, p in enumerate(paths) if i not in held], [paths[i] for i in sorted(held)]
