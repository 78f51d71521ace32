"""What a run would be trained on, without a run."""

from typing import Any

from jsonargparse.typing import PositiveInt
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from lightning_ad.cli.run import RunCLI


class PreviewCLI(RunCLI):
    """Builds model and data, and no run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Those of a run, and what the sheet is like."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--count", type=PositiveInt, default=24, help="how many synthetic anomalies are shown")
        parser.add_argument("--file", type=str, default="preview.png", help="where the sheet is written")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """One that writes nothing."""
        self.check_data()
        return Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
