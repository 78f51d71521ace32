"""What the trainer of a run is given: callbacks, loggers and plugins, ours before the user's."""

import sys
from collections.abc import Sequence
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lightning_ad.callbacks.throughput import RunProgressBar
from lightning_ad.system.checkpoints import WholeCheckpoints
from lightning_ad.system.run_folder import RunFolder

SELECTION_MODE = {  # what may choose an epoch, never by a test image, and which value is best
    "validation_loss": "min",
    "validation_AUROC": "max",
}


def checkpoint_callbacks(folder: RunFolder, select: str) -> list[Callback]:
    """Returns what keeps the last epoch and, unless `select` is last, the best one.

    Args:
        folder: of the run.
        select: last, or a metric of `SELECTION_MODE`.
    """
    last = ModelCheckpoint(
        str(folder.checkpoints),
        filename=folder.last_checkpoint.stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    if select == "last":
        return [last]
    best = ModelCheckpoint(
        str(folder.checkpoints),
        filename=folder.best_checkpoint.stem,
        monitor=select,
        mode=SELECTION_MODE[select],
        enable_version_counter=False,
    )
    return [best, last]  # the last one is written last: it holds what the best one remembers


def progress_bar(theirs: Sequence[Callback], wanted: bool | None) -> list[Callback]:
    """Returns a progress bar, unless the user's callbacks have one or none is wanted."""
    if wanted is False or any(isinstance(callback, ProgressBar) for callback in theirs):
        return []
    return [RunProgressBar(refresh_rate=1 if sys.stderr.isatty() else 50)]


def loggers(folder: RunFolder, theirs: Sequence[Logger]) -> list[Logger]:
    """Returns those that write TensorBoard and CSV files in the run folder, and the user's."""
    return [
        TensorBoardLogger(folder.logs, name="", version="tensorboard"),
        CSVLogger(folder.logs, name="csv"),
        *theirs,
    ]


def plugins(theirs: Sequence[Any], environment: ClusterEnvironment | None) -> list[Any]:
    """Returns the user's plugins, and ours where they have none.

    Args:
        theirs: the user's.
        environment: says which process of the run this is; None leaves it to Lightning.
    """
    ours: list[Any] = []
    if not any(isinstance(plugin, CheckpointIO) for plugin in theirs):
        ours.append(WholeCheckpoints())
    if environment is not None and not any(isinstance(p, ClusterEnvironment) for p in theirs):
        ours.append(environment)
    return [*ours, *theirs]
