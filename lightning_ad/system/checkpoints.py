"""Checkpoints on disk: whole or not there at all, written without a second copy in memory."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_ad.errors import WeightsError
from lightning_ad.system.memory import release_all


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there once it is on the disk; the one before stays until then.

    Lightning gathers a checkpoint in memory before it writes it: a gallery that memory does not hold could not be
    saved.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes to a local file; to any other place as Lightning does.

        Raises:
            OSError: where it cannot be written; nothing is left of it then.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(dict(checkpoint), path, storage_options)
            return
        write_whole(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """Reads a checkpoint, once its checksums are found right.

        Raises:
            WeightsError: where it is damaged.
        """
        if "://" not in str(path):
            check_whole(Path(path))
        return super().load_checkpoint(path, *args, **options)


class _Sparing:
    """A file that takes what it was given of tensors in files (`statistics.store`) out of memory once it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.flush = file, file.flush

    def write(self, data: bytes | memoryview) -> int:
        """Writes a part."""
        count = self._file.write(data)
        release_all()
        return count


def write_whole(content: Mapping[str, Any], target: Path) -> None:
    """Writes a file of tensors at once or not at all.

    Raises:
        OSError: where it cannot be written; nothing is left of it then, and what was there stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            torch.save(dict(content), _Sparing(file))
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        part.unlink(missing_ok=True)


def check_whole(path: Path) -> None:
    """Compares the checksums that torch writes into a file of tensors, and does not look at when it reads.

    Raises:
        WeightsError: naming the file, where one differs.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ) as error:  # of broken headers
        raise WeightsError(f"{path} is damaged ({error})") from error
    if damaged is not None:
        raise WeightsError(f"{path} is damaged: the checksum of its part {damaged} is wrong")
