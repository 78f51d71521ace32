"""A finished run, evaluated again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lightning_ad.cli.run import RunCLI, progress_bar
from lightning_ad.features.weights import skip_weights
from lightning_ad.reporting.run_folder import RunFolder


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
