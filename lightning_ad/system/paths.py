"""Paths of users: `~` stands for a home, and one place may be spelled in several ways."""

import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lightning_ad.system.names import same_letters


def user_path(path: str | os.PathLike[str]) -> Path:
    """Returns a path with `~` and `~user` at its beginning replaced by the home."""
    return Path(os.path.expanduser(path))


def with_homes(value: Any) -> Any:
    """Returns a setting, or settings within each other, with the homes of all paths written out.

    A text is taken for such a path if it is `~`, or begins with `~/` or `~user/`.
    """
    if isinstance(value, Mapping):
        return {name: with_homes(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_homes(item) for item in value]
    if isinstance(value, Path):
        return user_path(value)
    if isinstance(value, str) and value.startswith("~") and (value == "~" or "/" in value):
        return os.path.expanduser(value)
    return value


def existing(path: Path) -> Path:
    """Returns a path as it is on the disk, whose names may have accents as characters of their own.

    A path that leads nowhere, however it is written, is returned as it is.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for name in path.relative_to(path.anchor).parts:
        found = _entry(found, name)
    return found if os.path.lexists(found) else path


def _entry(folder: Path, name: str) -> Path:
    if os.path.lexists(folder / name) or not folder.is_dir():
        return folder / name
    changed = folder.stat().st_mtime_ns
    return folder / _names_by_letters(str(folder), changed).get(same_letters(name), name)


@lru_cache(maxsize=64)
def _names_by_letters(folder: str, changed: int) -> dict[str, str]:
    return {same_letters(name): name for name in sorted(os.listdir(folder))}


def places_of(paths: Iterable[str]) -> list[str]:
    """Returns the place of each file, the same however the way to its folder is spelled.

    A file that is a link to another one has a place of its own.
    """
    real: dict[str, str] = {}
    places: list[str] = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        places.append(os.path.join(real[folder], name))
    return places


def is_inside(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Returns whether a path leads into a folder, as it is spelled or as links lead."""
    spelled = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
    return spelled or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
