"""Loggers of the user that cannot end a run: a failure is a warning, and the run goes on."""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyExperiment, DummyLogger, Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

Result = TypeVar("Result")
SETTINGS = ("WANDB_", "MLFLOW_", "COMET_", "NEPTUNE_")  # variables that dashboards read
SECRETS = ("KEY", "TOKEN", "PASSWORD", "SECRET")


class SafeLogger(Logger):
    """Hands everything on to a logger until that fails; then it gets nothing more.

    Args:
        title: what warnings call the logger.
        make: makes it.
        remember: called once, on the first process, with the version of the logger's run once
            that has begun.
        last_step: finds the last step of a number that the logger's run has already, by name; -1
            without one. None if the run begins.

    Attributes:
        inner: the logger; None once it has failed.
    """

    def __init__(
        self,
        title: str,
        make: Callable[[], Logger],
        remember: Callable[[str], None],
        last_step: Callable[[Any, str], int] | None = None,
    ) -> None:
        super().__init__()
        self.title = title
        self._last_step = last_step
        self._last_steps: dict[str, int] = {}
        self.inner: Logger | None = None
        self._stopped = False
        self._remember: Callable[[str], None] | None = remember
        try:
            self.inner = make()
        except Exception as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        """Returns what only the logger itself has."""
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner or DummyLogger(), name)

    def note_stop(self) -> None:
        """Keeps the run, which was asked to stop and can go on, from being marked as failed."""
        self._stopped = True

    @property
    def experiment(self) -> Any:
        """What the logger writes to; once it has failed, something that takes everything."""
        found = self._use(_experiment, None)
        self._use(self._note_version, None)
        if self.inner is None:
            return DummyExperiment()
        return found

    @property
    def name(self) -> str | None:
        """The logger's name of the experiment."""
        return self._use(lambda logger: logger.name, None)

    @property
    def version(self) -> int | str | None:
        """The logger's name of the run."""
        return self._use(lambda logger: logger.version, None)

    @property
    def save_dir(self) -> str | None:
        """The folder of the logger's files."""
        return self._use(lambda logger: logger.save_dir, None)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Logs numbers by name, except at steps that an earlier part of the run has logged."""
        self._use(lambda logger: self._log_new(logger, metrics, step), None)

    def log_hyperparams(self, params: Any, *args: Any, **options: Any) -> None:
        """Logs the arguments of the method."""
        self._use(lambda logger: logger.log_hyperparams(params, *args, **options), None)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Logs the graph of the method."""
        self._use(lambda logger: logger.log_graph(model, input_array), None)

    def save(self) -> None:
        """Writes what was logged."""
        self._use(lambda logger: logger.save(), None)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Tells the logger of a new checkpoint."""
        self._use(lambda logger: logger.after_save_checkpoint(checkpoint_callback), None)

    def finalize(self, status: str) -> None:
        """Ends the logger's run, unless this run will go on."""
        if self._stopped and status != "success":
            self.save()
        else:
            self._use(lambda logger: logger.finalize(status), None)

    def _log_new(self, logger: Logger, metrics: dict[str, float], step: int | None) -> None:
        new = {}
        for name, value in metrics.items():
            if step is None or step > self._step_before(logger, name):
                new[name] = value
        if new:
            logger.log_metrics(new, step)

    def _step_before(self, logger: Logger, name: str) -> int:
        if self._last_step is None or rank_zero_only.rank:
            return -1
        if name not in self._last_steps:
            self._last_steps[name] = self._last_step(logger, name)
        return self._last_steps[name]

    def _note_version(self, logger: Logger) -> None:
        if self._remember is not None and rank_zero_only.rank == 0:
            self._remember(str(logger.version))
            self._remember = None

    def _use(self, use: Callable[[Logger], Result], instead: Result) -> Result:
        if self.inner is None:
            return instead
        try:
            return use(self.inner)
        except Exception as error:
            self._give_up(error)
            return instead

    def _give_up(self, error: Exception) -> None:
        self.inner = None
        rank_zero_warn(
            f"{self.title} failed and gets nothing more; the run continues, and its metrics are in "
            f"its folder (logs/csv): {reason(error, os.environ)}"
        )


def reason(error: Exception, variables: Mapping[str, str]) -> str:
    """Returns what an error says, on one line, and the variables whose values it names."""
    text = " ".join(str(error).split())
    named = []
    for name, value in variables.items():
        is_secret = any(secret in name for secret in SECRETS)
        if name.startswith(SETTINGS) and not is_secret and value and value in text:
            named.append(f"{name}={value}")
    if not named:
        return f"{type(error).__name__}: {text}"
    return f"{type(error).__name__}: {text} ({', '.join(named)} in the environment)"


def _experiment(logger: Any) -> Any:
    return logger.experiment
