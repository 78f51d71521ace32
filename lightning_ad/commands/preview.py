"""A contact sheet of synthetic anomalies: what a network is going to be trained on, before a night is spent on it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_ad.cli.run import RunCLI
from lightning_ad.cli.settings import with_demo
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.sample import collate
from lightning_ad.data.sampler import RowKey
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.errors import UsageError
from lightning_ad.reporting.pictures import draw_outline

COLUMNS = 3
EDGE, CAPTION = 8, 16  # pixels between tiles, and for the words above a column


def write_preview(
    data: AnomalyDataModule, synthesis: Synthesis, count: int, path: Path
) -> tuple[int, int]:
    """Draws training images of the first epochs, and shows those with an anomaly: good, anomalous, and outline.

    Args:
        data: after its `setup`.
        synthesis: of the method.
        count: anomalies shown.
        path: of the PNG.

    Returns:
        How many anomalies are shown, and how many training images were drawn to have them.

    Raises:
        UsageError: where none of many images got an anomaly.
    """
    source = data.training_set(synthesis)
    shown: list[tuple[Tensor, Tensor, Tensor]] = []
    drawn = 0
    while len(shown) < count and drawn < 100 * count:
        epoch, index = divmod(drawn, len(source))
        batch = collate([source[RowKey(index, epoch)]])
        drawn += 1
        normal, anomalous, mask = (x[0] for x in synthesis.apply(batch.image, batch.recipe))
        if bool(mask.any()):
            shown.append((normal, anomalous, mask))
    if not shown:
        raise UsageError(
            f"none of {drawn} training images got an anomaly; raise model.anomaly_probability"
        )
    contact_sheet(shown).save(path)
    return len(shown), drawn


def contact_sheet(rows: list[tuple[Tensor, Tensor, Tensor]]) -> Image.Image:
    """Triples of good image [3, H, W], image with an anomaly [3, H, W] and mask bool [H, W], `COLUMNS` side by side."""
    height, width = rows[0][2].shape
    group = 3 * width + EDGE
    lines = -(-len(rows) // COLUMNS)
    across = min(COLUMNS, len(rows))
    sheet = Image.new(
        "RGB", (across * (group + EDGE) - EDGE, CAPTION + lines * (height + EDGE)), "white"
    )
    write = ImageDraw.Draw(sheet)
    for column in range(across):
        for k, word in enumerate(("good", "with anomaly", "its outline")):
            write.text((column * (group + EDGE) + k * width + 2, 2), word, fill="black")
    for number, (normal, anomalous, mask) in enumerate(rows):
        line, column = divmod(number, COLUMNS)
        before, after = (
            x.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
            for x in (normal, anomalous)
        )
        tiles = np.concatenate((before, after, draw_outline(after, mask.numpy())), 1)
        sheet.paste(
            Image.fromarray(tiles), (column * (group + EDGE), CAPTION + line * (height + EDGE))
        )
    return sheet


class PreviewCLI(RunCLI):
    """Builds model and data, and no run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Those of a run, and what the sheet is like."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--count", type=PositiveInt, default=24, help="how many synthetic anomalies are shown"
        )
        parser.add_argument(
            "--file", type=str, default="preview.png", help="where the sheet is written"
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """One that writes nothing."""
        self.check_data()
        return Trainer(
            logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False
        )


def preview(args: Sequence[str] | None = None) -> Path:
    """`lightning-ad preview`: a contact sheet of the synthetic anomalies that a configuration trains on.

    Args:
        args: the flags of `train.py`, with `--count` and `--file`; None for those of the command line.

    Raises:
        UserError: for whatever the user can put right; where the method has no synthetic anomalies, too.
    """
    cli = PreviewCLI(with_demo(sys.argv[1:] if args is None else args))
    path, synthesis = Path(cli.config.file), cli.model.synthesis
    if synthesis is None:
        raise UsageError(
            f"{type(cli.model).__name__} trains on good images alone; preview a DRAEM, say"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    shown, drawn = write_preview(cli.datamodule, synthesis, cli.config.count, path)
    print(f"{path}: {shown} synthetic anomalies, from {drawn} training images drawn")
    return path
