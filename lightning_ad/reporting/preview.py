"""A contact sheet of synthetic anomalies: what a network is going to be trained on, before a night is spent on it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.sample import collate
from lightning_ad.data.sampler import Key
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.errors import UsageError
from lightning_ad.reporting.figures import draw_outline

COLUMNS = 3
EDGE, CAPTION = 8, 16  # pixels between tiles, and for the words above a column


def write_preview(data: AnomalyDataModule, synthesis: Synthesis, count: int, path: Path) -> tuple[int, int]:
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
        batch = collate([source[Key(index, epoch)]])
        drawn += 1
        normal, anomalous, mask = (x[0] for x in synthesis.apply(batch.image, batch.recipe))
        if bool(mask.any()):
            shown.append((normal, anomalous, mask))
    if not shown:
        raise UsageError(f"none of {drawn} training images got an anomaly; raise model.anomaly_probability")
    contact_sheet(shown).save(path)
    return len(shown), drawn


def contact_sheet(rows: list[tuple[Tensor, Tensor, Tensor]]) -> Image.Image:
    """Triples of good image [3, H, W], image with an anomaly [3, H, W] and mask bool [H, W], `COLUMNS` side by side."""
    height, width = rows[0][2].shape
    group = 3 * width + EDGE
    lines = -(-len(rows) // COLUMNS)
    across = min(COLUMNS, len(rows))
    sheet = Image.new("RGB", (across * (group + EDGE) - EDGE, CAPTION + lines * (height + EDGE)), "white")
    write = ImageDraw.Draw(sheet)
    for column in range(across):
        for k, word in enumerate(("good", "with anomaly", "its outline")):
            write.text((column * (group + EDGE) + k * width + 2, 2), word, fill="black")
    for number, (normal, anomalous, mask) in enumerate(rows):
        line, column = divmod(number, COLUMNS)
        before, after = (x.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy() for x in (normal, anomalous))
        tiles = np.concatenate((before, after, draw_outline(after, mask.numpy())), 1)
        sheet.paste(Image.fromarray(tiles), (column * (group + EDGE), CAPTION + line * (height + EDGE)))
    return sheet
