"""A finished run, evaluated again."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from lightning_ad.cli.run import RunCLI
from lightning_ad.cli.trainer import LoggerPlan, progress_bar
from lightning_ad.data.layouts import demo
from lightning_ad.features.weights import skip_weights
from lightning_ad.inspector import FinishedRun
from lightning_ad.system.names import file_name, stays_below
from lightning_ad.system.run_folder import RunFolder

OF_THE_TEST = ("precision", "max_epochs", "limit_test_batches")  # settings of the trainer
OF_THE_FIT = ("output", "select", "extend", "suspects", "trim")  # flags that an evaluation drops
OF_ITS_MACHINE = ("feature_cache", "feature_cache_gb")  # a checkpoint names no folder to write to


class EvaluateCLI(RunCLI):
    """Builds a finished run again, with its own settings, on its own data or on others.

    Args:
        args: the flags.
        checkpoint: the file that is evaluated.
        beside: the run whose folder takes the results; None puts them below --output.
    """

    stage = "test"
    checkpoint = Path()  # hides the property: `__init__` sets it

    def __init__(self, args: Sequence[str], checkpoint: Path, beside: RunFolder | None) -> None:
        self.checkpoint = checkpoint
        self.beside = beside
        super().__init__(args)

    def weights_context(self) -> AbstractContextManager:
        """Backbones are built without weights: the checkpoint brings them."""
        return skip_weights()

    def open_folder(self) -> RunFolder:
        """Opens a folder of its own: the run's own results are left as they are."""
        if rank_zero_only.rank:
            return RunFolder(Path(self.config.output))
        if self.beside is not None:
            folder = RunFolder.create(self.beside.path, "evaluations")
        else:
            folder = RunFolder.create(Path(self.config.output), f"{self.name}-evaluation")
        folder.write_config(self.config_text)
        return folder

    def callbacks(self, theirs: list[Callback]) -> list[Callback]:
        """Returns the user's callbacks and a progress bar; nothing is saved."""
        return [*progress_bar(theirs, self.config_init.trainer.enable_progress_bar), *theirs]

    def loggers(self, wanted: LoggerPlan | list[LoggerPlan] | bool | None) -> bool:
        """Returns False: an evaluation is one row, in metrics.json."""
        return False


@contextmanager
def own_config(target: Path) -> Iterator[list[str]]:
    """Gives the flag with a finished run's settings, without those of its machine and its fit.

    Raises:
        UsageError: if there is no finished run.
        WeightsError: for a file that is not a checkpoint of ours.
    """
    config = FinishedRun.read(target).config
    trainer = config["trainer"]
    config["trainer"] = {name: trainer.get(name) for name in OF_THE_TEST}
    for name in (*OF_THE_FIT, *OF_ITS_MACHINE):
        config.pop(name, None)
    _keep_inside(config)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml.safe_dump(config))
        file.flush()
        yield ["--config", file.name]


def _keep_inside(config: dict[str, Any]) -> None:
    """Keeps what a checkpoint names from being written elsewhere than where the user writes."""
    name = config.get("name")
    if name is not None and not stays_below(str(name)):
        config["name"] = file_name(str(name))
    data = config["data"]
    if data.get("layout") == "demo" and not demo.is_drawn(Path(str(data.get("root")))):
        data.pop("root", None)  # it is drawn where it is by default
