"""Which files of a folder are images: one rule for layouts, textures, masks and ignored regions.

Hidden files and folders, and those that systems and programs keep for themselves, are passed over.
So is what is called like an image and is no file: a folder, a pipe, a socket or a device. A link to
a folder is followed, and each folder is listed once. A link that leads nowhere counts as an image,
which is then reported as missing. What is passed over is counted.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from lightning_ad.errors import MissingFolderError

SUFFIXES = ["png", "jpg", "jpeg", "jfif", "jp2", "bmp", "tif", "tiff", "webp", "pgm", "ppm", "pbm"]
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in SUFFIXES)
SYSTEM_NAMES = frozenset(  # in small letters; the first three are of Synology, QNAP and macOS
    [
        "@eadir",
        "@__thumb",
        "__macosx",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "thumbs.db",
        "desktop.ini",
        "__pycache__",
    ]
)


@dataclass
class PassedOver:
    """The entries of folders that were passed over.

    Attributes:
        silent: whether they are not noted.
        hidden: folders and images that are hidden, or of a system.
        no_files: what is called like an image and is no file.
    """

    silent: bool = False
    hidden: set[str] = field(default_factory=set)
    no_files: set[str] = field(default_factory=set)


_passed_over: ContextVar[PassedOver | None] = ContextVar("passed_over", default=None)


@contextmanager
def noting_passed_over(silent: bool = False) -> Iterator[PassedOver]:
    """Notes at the end what was passed over inside, how many and the first of each kind.

    Args:
        silent: nothing is noted, of what is listed inside too.
    """
    around = _passed_over.get()
    found = PassedOver(silent or (around is not None and around.silent))
    token = _passed_over.set(found)
    try:
        yield found
    finally:
        _passed_over.reset(token)
    parts = []
    if found.hidden:
        parts.append(f"{len(found.hidden)} hidden or of the system ({min(found.hidden)})")
    if found.no_files:
        first = min(found.no_files)
        parts.append(f"{len(found.no_files)} called like images, but no files ({first})")
    if parts and not found.silent:
        rank_zero_info(f"Passed over in the folders of images: {', and '.join(parts)}.")


def images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Returns the image files in a folder, sorted by name; `recursive`, of all folders in it too.

    Raises:
        MissingFolderError: if there is no such folder.
    """
    if not folder.is_dir():
        raise MissingFolderError(f"there is no folder {folder}, where images were expected")
    found: list[Path] = []
    for inner in folders_below(folder) if recursive else [folder]:
        found += _images_in(inner)
    return sorted(found)


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders in a folder, links to folders among them, sorted by name."""
    found: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                continue
            if _is_hidden(entry.name):
                _pass_over_hidden(entry.path)
            else:
                found.append(folder / entry.name)
    return sorted(found)


def folders_below(folder: Path) -> list[Path]:
    """Returns a folder and all folders in it, however deep, sorted by name.

    A folder that links lead to is there once, by its own path if that is below `folder` too.
    """
    found: dict[tuple[int, int], Path] = {}
    own = [folder]
    links: list[Path] = []
    while own or links:
        current = own.pop() if own else links.pop(0)
        status = current.stat()
        place = (status.st_dev, status.st_ino)
        if place in found:
            continue
        found[place] = current
        for inner in subfolders(current):
            if inner.is_symlink():
                links.append(inner)
            else:
                own.append(inner)
    return sorted(found.values())


def _images_in(folder: Path) -> list[Path]:
    found: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_image(entry):
                found.append(folder / entry.name)
    return found


def _is_image(entry: os.DirEntry[str]) -> bool:
    if os.path.splitext(entry.name)[1].lower() not in IMAGE_SUFFIXES:
        return False
    if _is_hidden(entry.name):
        _pass_over_hidden(entry.path)
        return False
    leads_nowhere = entry.is_symlink() and not os.path.exists(entry.path)
    if not entry.is_file() and not leads_nowhere:
        _pass_over_no_file(entry.path)
        return False
    return True


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _pass_over_hidden(path: str) -> None:
    found = _passed_over.get()
    if found is not None:
        found.hidden.add(path)


def _pass_over_no_file(path: str) -> None:
    found = _passed_over.get()
    if found is not None:
        found.no_files.add(path)
