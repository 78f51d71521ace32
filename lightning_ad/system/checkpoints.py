"""Checkpoints on disk: whole or not there at all, written without a second copy in memory."""

import errno
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_ad.errors import UnreadableError, WeightsError
from lightning_ad.system.files import replacing_bytes
from lightning_ad.system.memory import release_all

DISK_FAILS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
CONFIG_KEY = "lightning_ad_config"  # the configuration of a run, as YAML text


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a file beside its place and moves it there once it is on the disk.

    The one before stays until then. Lightning would gather a checkpoint in memory before it writes
    it, and could not save more than memory holds.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes to a local file; to any other place as Lightning does.

        Raises:
            OSError: if it cannot be written; nothing is left of it then.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(dict(checkpoint), path, storage_options)
        else:
            write_whole(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """Reads a checkpoint after checking its checksums.

        Raises:
            WeightsError: if it is damaged.
        """
        if "://" not in str(path):
            check_whole(Path(path))
        return super().load_checkpoint(path, *args, **options)


class _ReleasingFile:
    """Writes through to a file and drops memory-mapped pages (`system.memory`) after each write."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.flush = file.flush

    def write(self, data: bytes | memoryview) -> int:
        count = self._file.write(data)
        release_all()
        return count


def write_whole(content: Mapping[str, Any], target: Path) -> None:
    """Writes a file of tensors whole or not at all.

    Raises:
        OSError: if it cannot be written; nothing is left of it then, and what was there stays.
    """
    try:
        with replacing_bytes(target) as file:
            torch.save(dict(content), _ReleasingFile(file))
    except RuntimeError as error:  # of the end of an archive whose middle could not be written
        refused = error.__context__
        if not isinstance(refused, OSError):
            raise
        raise OSError(refused.errno, refused.strerror, str(target)) from error


def check_readable(path: Path) -> None:
    """Raises UnreadableError if the system does not give the file."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from error


def check_whole(path: Path) -> None:
    """Compares the checksums that torch writes into a file of tensors, but does not check itself.

    Raises:
        WeightsError: naming the file, if one differs, or the file cannot be read.
    """
    check_readable(path)
    if not zipfile.is_zipfile(path):
        return
    # The other errors are those of broken headers.
    broken = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError)
    try:
        with zipfile.ZipFile(path) as file:
            _check_sizes(path, file.infolist())
            damaged = file.testzip()
    except broken as error:
        raise _fault(path, error) from error
    if damaged is not None:
        raise WeightsError(f"{path} is damaged: the checksum of its part {damaged} is wrong")


def _check_sizes(path: Path, parts: Sequence[zipfile.ZipInfo]) -> None:
    """Raises WeightsError if parts are larger than the file that holds them; torch packs none."""
    size = sum(part.file_size for part in parts)
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if packed or size > path.stat().st_size:
        raise WeightsError(
            f"{path} is refused: its parts would grow to {size} bytes, and torch writes none that "
            "grow; save it again by torch.save"
        )


def _fault(path: Path, error: Exception) -> WeightsError:
    """Tells a disk or a network that fails from a file that is damaged."""
    if isinstance(error, OSError) and error.errno in DISK_FAILS:
        return UnreadableError(f"{path} cannot be read: {error.strerror}")
    return WeightsError(f"{path} is damaged ({error})")
