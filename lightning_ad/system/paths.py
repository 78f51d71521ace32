"""Paths of users: `~` stands for a home, and one place may be spelled in several ways."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


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
