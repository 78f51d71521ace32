"""Which run on a dashboard belongs to a run folder, so that a resumed run goes on in it."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning_ad.system.files import write_json


class Arguments(NamedTuple):
    """The arguments by which a logger is told which run it writes to.

    Attributes:
        title: of the name that people read.
        versions: of the run's number; the first one is set.
        variable: of the environment, that names the run too.
    """

    title: str
    versions: tuple[str, ...]
    variable: str


ARGUMENTS = {
    "WandbLogger": Arguments("name", ("id", "version"), "WANDB_NAME"),
    "MLFlowLogger": Arguments("run_name", ("run_id",), "MLFLOW_RUN_NAME"),
}


def last_step_on_mlflow(logger: Any, name: str) -> int:
    """Returns the last step at which a number was logged to the run of an MLFlowLogger, or -1."""
    history = logger.experiment.get_metric_history(logger.run_id, name)
    return max((metric.step for metric in history), default=-1)


LAST_STEP: dict[str, Callable[[Any, str], int]] = {"MLFlowLogger": last_step_on_mlflow}


class DashboardRuns:
    """Keeps in a file which runs of dashboards belong to a run folder.

    Args:
        file: the JSON file.
        title: the name of the run, on all dashboards.
    """

    def __init__(self, file: Path, title: str) -> None:
        self._file = file
        self._title = title

    def complete(self, key: str, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments of a logger, with the name of the run and its number.

        What the user has given stays.

        Args:
            key: of the logger among those of the run.
            kind: the name of its class.
            given: its arguments.
        """
        arguments = ARGUMENTS.get(kind)
        completed = dict(given)
        if arguments is None:
            return completed
        if completed.get(arguments.title) is None and arguments.variable not in os.environ:
            completed[arguments.title] = self._title
        known = self._read().get(key)
        if known is not None and not any(completed.get(name) for name in arguments.versions):
            completed[arguments.versions[0]] = known
        return completed

    def last_step(self, key: str, kind: str) -> Callable[[Any, str], int] | None:
        """Returns what finds the last step of a number, if the logger's run goes on."""
        return LAST_STEP.get(kind) if key in self._read() else None

    def remember(self, key: str, version: str) -> None:
        """Writes the number of the run that a logger has begun."""
        write_json(self._file, {**self._read(), key: version})

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self._file.read_text())
        except (OSError, ValueError):  # not there, or damaged: the dashboards begin anew
            return {}
        return known if isinstance(known, dict) else {}
