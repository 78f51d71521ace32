"""`lightning-ad preview`: a contact sheet of the synthetic anomalies that a network trains on."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_ad.cli import checks
from lightning_ad.cli.run import RunCLI
from lightning_ad.cli.settings import with_demo
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.sample import collate
from lightning_ad.data.sampler import RowKey
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.errors import UsageError
from lightning_ad.reporting.pictures import draw_outline
from lightning_ad.system.names import show

COLUMNS = 3
TITLES = ("good", "with anomaly", "its outline")
EDGE = 8  # pixels between tiles
CAPTION = 16  # pixels above a column, for the titles
DRAWN_FOR_EACH = 100  # training images that are drawn at most for each anomaly that is shown


class Example(NamedTuple):
    """A training image with a synthetic anomaly.

    Attributes:
        good: float32 [3, H, W] in [0, 1], without the anomaly.
        anomalous: float32 [3, H, W] in [0, 1].
        mask: bool [H, W].
    """

    good: Tensor
    anomalous: Tensor
    mask: Tensor


class PreviewCLI(RunCLI):
    """Builds model and data, and no run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the flags of a run and those of the sheet."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--count", type=PositiveInt, default=24, help="number of synthetic anomalies to show"
        )
        parser.add_argument("--file", type=str, default="preview.png", help="PNG file of the sheet")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Returns a trainer that writes nothing.

        Raises:
            UsageError: if the threshold cannot be chosen as the flags say.
        """
        self.check_data()
        held_out = self.datamodule.samples["validation"]
        checks.check_threshold(self.config_init, self.model, held_out)
        return Trainer(
            logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False
        )


def run(arguments: argparse.Namespace) -> None:
    """Draws the sheet that the flags describe."""
    preview(arguments.flags)


def preview(args: Sequence[str] | None = None) -> Path:
    """Draws a contact sheet of the synthetic anomalies that a configuration trains on.

    Args:
        args: the flags of `lightning-ad train`, with `--count` and `--file`; None for those of the
            command line.

    Returns:
        The PNG file.

    Raises:
        UserError: for anything that the user can put right, such as a method without synthetic
            anomalies.
    """
    cli = PreviewCLI(with_demo(sys.argv[1:] if args is None else args))
    synthesis = cli.model.synthesis
    if synthesis is None:
        raise UsageError(
            f"{type(cli.model).__name__} trains on good images alone; preview a method with "
            "synthetic anomalies, such as DRAEM"
        )
    path = Path(cli.config.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    shown, drawn = write_preview(cli.datamodule, synthesis, cli.config.count, path)
    show(f"{path}: {shown} synthetic anomalies, from {drawn} training images drawn")
    return path


def write_preview(
    data: AnomalyDataModule, synthesis: Synthesis, count: int, path: Path
) -> tuple[int, int]:
    """Draws training images of the first epochs and writes those that got an anomaly as a PNG.

    Args:
        data: after its `setup`.
        synthesis: of the method.
        count: number of anomalies to show.
        path: of the PNG.

    Returns:
        How many anomalies are shown, and how many training images were drawn for them.

    Raises:
        UsageError: if none of many images got an anomaly.
    """
    source = data.training_set(synthesis)
    examples: list[Example] = []
    drawn = 0
    while len(examples) < count and drawn < DRAWN_FOR_EACH * count:
        epoch, index = divmod(drawn, len(source))
        batch = collate([source[RowKey(index, epoch)]])
        drawn += 1
        good, anomalous, mask = synthesis.apply(batch.image, batch.recipe)
        if bool(mask.any()):
            examples.append(Example(good[0], anomalous[0], mask[0]))
    if not examples:
        raise UsageError(
            f"none of {drawn} training images got an anomaly; raise model.anomaly_probability"
        )
    contact_sheet(examples).save(path)
    return len(examples), drawn


def contact_sheet(examples: Sequence[Example]) -> Image.Image:
    """Draws examples as triples of good image, image with anomaly and outline, `COLUMNS` a line."""
    height, width = examples[0].mask.shape
    column_step = len(TITLES) * width + 2 * EDGE
    line_step = height + EDGE
    columns = min(COLUMNS, len(examples))
    lines = -(-len(examples) // COLUMNS)
    size = (columns * column_step - EDGE, CAPTION + lines * line_step)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for column in range(columns):
        for number, title in enumerate(TITLES):
            pen.text((column * column_step + number * width + 2, 2), title, fill="black")
    for number, example in enumerate(examples):
        line, column = divmod(number, COLUMNS)
        corner = (column * column_step, CAPTION + line * line_step)
        sheet.paste(Image.fromarray(_triple(example)), corner)
    return sheet


def _triple(example: Example) -> NDArray[np.uint8]:
    """Returns the three pictures of an example beside each other, uint8 [H, 3 W, 3]."""
    good = _pixels(example.good)
    anomalous = _pixels(example.anomalous)
    outline = draw_outline(anomalous, example.mask.numpy())
    return np.concatenate((good, anomalous, outline), 1)


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    return image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
