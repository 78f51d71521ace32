"""What the trainer of a run is given: callbacks, loggers and plugins, ours before the user's."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins import LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy

from lightning_ad.callbacks.throughput import RunProgressBar
from lightning_ad.errors import UsageError, UserError
from lightning_ad.reporting.dashboards.identity import DashboardRuns
from lightning_ad.reporting.dashboards.safe_logger import SafeLogger
from lightning_ad.system.checkpoints import WholeCheckpoints
from lightning_ad.system.run_folder import RunFolder

SELECTION_MODE = {  # what may choose an epoch, never by a test image, and which value is best
    "validation_loss": "min",
    "validation_AUROC": "max",
}


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint callback of ours: by its name, checkpoints tell its state from the user's."""

    @property
    def _legacy_state_key(self) -> str:  # type: ignore[override]
        """The name in checkpoints of earlier versions, where Lightning looks too."""
        return self.state_key.replace("RunCheckpoint", "ModelCheckpoint", 1)


def checkpoint_callbacks(folder: RunFolder, select: str) -> list[Callback]:
    """Returns what keeps the last epoch and, unless `select` is last, the best one.

    Args:
        folder: of the run.
        select: last, or a metric of `SELECTION_MODE`.
    """
    last = RunCheckpoint(
        str(folder.checkpoints),
        filename=folder.last_checkpoint.stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    if select == "last":
        return [last]
    best = RunCheckpoint(
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


class LoggerPlan(NamedTuple):
    """A logger of the user that is made once the run has its folder.

    Attributes:
        kind: its class.
        arguments: of its constructor.
    """

    kind: type[Logger]
    arguments: dict[str, Any]


def plan_logger(kind: type[Logger], **arguments: Any) -> LoggerPlan:
    """Takes the place of a logger's constructor while the flags are read."""
    return LoggerPlan(kind, arguments)


class PartMaker:
    """Makes the user's callbacks and plugins of the trainer, and keeps what they say against it.

    The parser would hide it among the errors of all the types that a setting may have.

    Attributes:
        failures: a sentence for each part that cannot be made.
    """

    KINDS = (Callback, Profiler, Strategy, Precision, CheckpointIO, ClusterEnvironment, LayerSync)

    def __init__(self) -> None:
        self.failures: list[UserError] = []

    def __call__(self, kind: type, *args: Any, **arguments: Any) -> Any:
        """Returns the part; None if it cannot be made."""
        try:
            return kind(*args, **arguments)
        except UserError as error:
            self.failures.append(error)
        except Exception as error:
            self.failures.append(UsageError(f"{kind.__name__} cannot be made: {error}"))
        return None

    def check(self) -> None:
        """Raises the UserError of the first part that could not be made."""
        if self.failures:
            raise self.failures[0]


def loggers(folder: RunFolder, theirs: Sequence[LoggerPlan]) -> list[Logger]:
    """Returns those that write TensorBoard and CSV files in the run folder, and the user's."""
    path = folder.path
    runs = DashboardRuns(folder.logs / "dashboards.json", f"{path.parent.name}/{path.name}")
    made: list[Logger] = [
        TensorBoardLogger(folder.logs, name="", version="tensorboard"),
        CSVLogger(folder.logs, name="csv"),
    ]
    for number, plan in enumerate(theirs):
        title = plan.kind.__name__
        key = f"{number} {title}"
        arguments = runs.complete(key, title, plan.arguments)
        make = partial(plan.kind, **arguments)
        remember = partial(runs.remember, key)
        made.append(SafeLogger(title, make, remember, runs.last_step(key, title)))
    return made


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
