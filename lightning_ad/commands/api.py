"""The commands as Python functions: `lightning_ad.train` and `lightning_ad.evaluate`."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lightning_ad import methods
from lightning_ad.cli.settings import GivenSettings, config_of
from lightning_ad.commands import evaluate as evaluate_command
from lightning_ad.commands import train as train_command
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.errors import UsageError
from lightning_ad.features.weights import read_state
from lightning_ad.inspector import Inspector, load
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.learned import LearnedModule
from lightning_ad.reporting.tables import ImageResult, read_predictions
from lightning_ad.system.run_folder import RunFolder

LENGTHS = ("max_epochs", "max_steps", "max_time")  # settings of the trainer that end a training


@dataclass(frozen=True)
class Run:
    """A finished run, or an evaluation of one.

    Attributes:
        files: the paths of all that it left.
    """

    files: RunFolder

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """The metrics by name, in [0, 1]; None for one that cannot be computed."""
        return json.loads(self.files.metrics.read_text())["metrics"]

    @cached_property
    def predictions(self) -> list[ImageResult]:
        """The result of each test image."""
        return read_predictions(self.files.predictions)

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.files.report

    def inspector(self) -> Inspector:
        """Loads what the run has learned, to inspect other images with it."""
        return load(self.files.path)


def train(
    module: AnomalyModule,
    data: AnomalyDataModule,
    *,
    trainer: Mapping[str, Any] | None = None,
    flags: Sequence[str | os.PathLike[str]] = (),
    **settings: Any,
) -> Run:
    """Fits and tests a method, and writes a run folder: the run of `lightning-ad train`.

    The run builds the method and the data anew from their arguments, with the seed of `data`; in
    the end `module` holds what was learned. On several devices, all processes get the same run.

    Args:
        module: the method.
        data: the data set.
        trainer: arguments of the trainer, such as {"max_epochs": 20, "devices": 2}; what is left
            out is as released.
        flags: more flags of `lightning-ad train`, such as ["--model.optimizer", "AdamW"].
        settings: flags of `lightning-ad train` by name, such as name, output, threshold, reject.

    Raises:
        UserError: for anything that the user can put right.
    """
    if not isinstance(module, AnomalyModule) or not isinstance(data, AnomalyDataModule):
        raise UsageError(
            "train takes a method and an AnomalyDataModule, such as ad.PatchCore() and "
            f'ad.AnomalyDataModule("mtd", "data/mtd"); got {_kind(module)} and {_kind(data)}'
        )
    more = [os.fspath(flag) for flag in flags]
    config = {
        "seed_everything": data.seed,
        "model": _model_config(module),
        "data": _data_config(data),
        "trainer": {**released_trainer(module), **(trainer or {})},
    }
    if settings.pop("resume", False):
        more.append("--resume")
    package = type(module).__module__.partition(".")[0]
    if package != "lightning_ad":
        more += ["--trust", package]
    with _written({**config, **settings}) as file:
        words = ["--config", str(file), *more]
        _check_trainer(module, GivenSettings(words))
        folder = train_command.train(words)
    module.load_learned(read_state(folder.checkpoint))
    return Run(folder)


def evaluate(
    target: str | os.PathLike[str] | Run,
    *,
    flags: Sequence[str | os.PathLike[str]] = (),
    **data: Any,
) -> Run:
    """Tests a finished run again, or on other data: `lightning-ad evaluate`.

    Args:
        target: a run, its folder or a .ckpt file.
        flags: flags of `lightning-ad evaluate`, such as ["--output", "elsewhere"].
        data: arguments of the data set that differ from the run's, such as root="elsewhere".

    Raises:
        UserError: for anything that the user can put right.
    """
    path = target.files.path if isinstance(target, Run) else target
    words = [os.fspath(path), *(os.fspath(flag) for flag in flags)]
    for name, value in data.items():
        words += [f"--data.{name}", _word(value)]
    return Run(evaluate_command.evaluate(words))


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return type(value).__name__


def _model_config(module: AnomalyModule) -> dict[str, Any]:
    if isinstance(module, LearnedModule) and module.has_own_optimizer:
        raise UsageError(
            "an optimizer or a schedule that was given to the method cannot be written into the "
            'run: give it as a flag, such as flags=["--model.optimizer", "AdamW"]'
        )
    arguments = {name: value for name, value in module.hparams.items() if name != "seed"}
    return {"class_path": _class_path(module), "init_args": arguments}


def _class_path(module: AnomalyModule) -> str:
    """Returns where a method's class is, as the configurations name it."""
    method = type(module)
    if getattr(methods, method.__name__, None) is method:
        return f"lightning_ad.methods.{method.__name__}"
    return f"{method.__module__}.{method.__qualname__}"


def _data_config(data: AnomalyDataModule) -> dict[str, Any]:
    return {name: value for name, value in data.arguments.items() if name != "seed"}


def released_trainer(module: AnomalyModule) -> dict[str, Any]:
    """Returns the trainer settings of the method's own configuration.

    Without one, a method that reads each image once has one epoch, and another no settings.
    """
    own = config_of(_class_path(module))
    if own is not None:
        return yaml.safe_load(own.read_text()).get("trainer") or {}
    if isinstance(module, FitOnlyModule):
        return {"max_epochs": 1}
    return {}


def _check_trainer(module: AnomalyModule, given: GivenSettings) -> None:
    """Raises UsageError if the trainer would train without an end, or keep nothing."""
    if all(given.get(f"trainer.{name}") is None for name in LENGTHS):
        raise UsageError(
            f"{type(module).__name__} has no released settings that say how long it is trained: "
            'give trainer={"max_epochs": ...}'
        )
    if given.is_trial:
        raise UsageError(
            "what was learned is taken from the run's checkpoint, and trainer.fast_dev_run writes "
            "none: leave it out, or run lightning-ad train"
        )
    if str(given.get("trainer.enable_checkpointing")).lower() == "false":
        raise UsageError(
            "what was learned is taken from the run's checkpoint: leave out "
            "trainer.enable_checkpointing, or run lightning-ad train"
        )


def _word(value: Any) -> str:
    """Writes a value as it is typed after a flag."""
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _plain(value: Any) -> Any:
    """Returns a setting as YAML and JSON can write it: paths as text, tuples as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@contextmanager
def _written(config: Mapping[str, Any]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(_plain(config), sort_keys=False))
        yield file
