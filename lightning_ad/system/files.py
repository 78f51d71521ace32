"""Files that are written whole or not at all, and are on the disk once they are there."""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

DISK_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: str | Path, errors: str = "surrogateescape") -> Iterator[TextIO]:
    """Opens a text file that takes the place of `path` only once it is complete and on the disk.

    Raises:
        OSError: naming `path`, if it cannot be written; what was there stays.
    """
    path = Path(path)
    make_folder(path.parent)
    with (
        _whole(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors=errors) as file,
    ):
        yield file
        put_on_disk(file)


@contextmanager
def replacing_bytes(path: Path) -> Iterator[BinaryIO]:
    """Opens a binary file as `replacing` does.

    Raises:
        OSError: naming `path`, if it cannot be written; what was there stays.
    """
    make_folder(path.parent)
    with _whole(path) as part, open(part, "wb") as file:
        yield file
        put_on_disk(file)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Gives the name of a file beside `path`, which is moved there if nothing is raised.

    Each process has its own, so that two of them cannot mix what they write.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path, instead_of=part):
            yield part
            os.replace(part, path)
            sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, instead_of: Path | None = None) -> Iterator[None]:
    """Names a file in the errors of the system that name none, or that name another one.

    Args:
        path: of the file that is named.
        instead_of: the other file.

    Raises:
        OSError: in place of one without a name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(instead_of)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def put_on_disk(file: TextIO | BinaryIO) -> None:
    """Waits until all that was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Makes a folder and those above it that are missing, on the disk too."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk, on systems that can: after a power cut they hold.

    Raises:
        OSError: if the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
    finally:
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Removes the incomplete files that killed processes have left in a folder."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file; NaN and infinity, which JSON does not know, become null."""
    with replacing(path) as file:
        file.write(json.dumps(_finite(content), indent=2) + "\n")


def _finite(value: Any) -> Any:
    """Returns the same with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
