"""Checkpoints on disk: whole or not there at all, written without a second copy in memory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


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
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        try:
            with part.open("wb") as file:
                torch.save(dict(checkpoint), file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
