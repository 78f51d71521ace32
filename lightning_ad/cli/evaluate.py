"""A finished run, evaluated again."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.cli.run import RunCLI, progress_bar
from lightning_ad.errors import WeightsError
from lightning_ad.features.weights import read_state, skip_weights
from lightning_ad.system.run_folder import RunFolder, finished_checkpoint


class EvaluateCLI(RunCLI):
    """The same for a finished run: its own settings, on its own data or on others.

    Args:
        args: the flags.
        checkpoint: the file that is evaluated.
        beside: the run whose folder takes the results; None puts them below --output.
    """

    stage = "test"

    def __init__(self, args: Sequence[str], checkpoint: Path, beside: RunFolder | None) -> None:
        self.evaluated, self.beside = checkpoint, beside
        super().__init__(args)

    @property
    def checkpoint(self) -> Path:
        """The file that is evaluated."""
        return self.evaluated

    def instantiate_classes(self) -> None:
        """Backbones are built without weights: the checkpoint brings them."""
        with skip_weights():
            super().instantiate_classes()

    def open_folder(self) -> RunFolder:
        """A folder of its own: the run's own results are left as they are."""
        if rank_zero_only.rank:
            return RunFolder(Path(self.config.output))
        if self.beside is not None:
            folder = RunFolder.create(self.beside.path, "evaluations")
        else:
            folder = RunFolder.create(Path(self.config.output), f"{self.name}-evaluation")
        folder.config.write_text(self.config_text)
        return folder

    def callbacks(self, theirs: list[Callback], wanted: Any) -> list[Callback]:
        """A progress bar; nothing is saved."""
        return [*progress_bar(theirs, wanted), *theirs]

    def loggers(self, wanted: Logger | list[Logger] | bool | None) -> list[Logger] | bool:
        """None: an evaluation is one row, in metrics.json."""
        return False


def load_learned(cli: RunCLI, checkpoint: Path) -> None:
    """Gives the model what is in a checkpoint; a gallery that is too large for memory stays in the file."""
    learned = read_state(checkpoint)
    if cli.config_init.select != "last":
        rank_zero_info(f"--select {cli.config_init.select}: epoch {learned['epoch']} is tested")
    cli.training_set = learned.get(ConfigInCheckpoint.TRAINING_SET, cli.training_set)
    cli.model.load_learned(learned)


@contextmanager
def own_config(target: Path) -> Iterator[list[str]]:
    """The flag that gives a finished run's settings; those of its machine and of its first fit are left out.

    Raises:
        UsageError: where there is no finished run.
        WeightsError: for a file that is not a checkpoint of ours.
    """
    checkpoint = finished_checkpoint(target)
    text = read_state(checkpoint).get(ConfigInCheckpoint.KEY)
    if not isinstance(text, str):
        raise WeightsError(
            f"{checkpoint} is not a checkpoint of lightning_ad: it has no configuration in it"
        )
    config = yaml.safe_load(text)
    config["trainer"] = {name: config["trainer"].get(name) for name in ("precision", "max_epochs")}
    for name in ("output", "select", "extend", "suspects", "trim"):
        config.pop(name, None)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml.safe_dump(config))
        file.flush()
        yield ["--config", file.name]
