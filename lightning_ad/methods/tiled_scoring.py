"""Large images by tiles: where they lie, how they are cut, and how their maps become one without seams."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_ad.data.tiling import Tiles
from lightning_ad.errors import UsageError
from lightning_ad.features.backbone import BLOCK

TOGETHER = 4  # tiles that are scored together on a CPU, at most: each takes memory


def tiles_together(device: torch.device, one_thread_per_image: bool) -> int:
    """How many tiles of an image to score together; `one_thread_per_image`: on a CPU, each has a thread of its own."""
    if device.type == "cpu" and one_thread_per_image:
        return min(TOGETHER, torch.get_num_threads())
    return BLOCK.get(device.type, 1)


def score_by_tiles(
    score: Callable[..., tuple[Tensor | None, ...]],
    image: Tensor,
    tiles: Tiles,
    block: int = 1,
    ignore: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Scores large images, holding little more than their maps and what `block` tiles take.

    Args:
        score: of tiles [n, C, h, w], gives maps [n, h, w], scores [n], and more values by tile, or None for them.
        image: [B, C, H, W].
        tiles: of that size.
        block: how many tiles are scored together.
        ignore: bool [B, H, W], of which `score` is given the tiles too; a tile that is ignored everywhere gives no
            score. None for nothing.

    Returns:
        Blended maps [B, H, W], scores [B], the largest of each image's tiles, and the other values of that tile.

    Raises:
        UsageError: for images of another size.
    """
    height, width = image.shape[2:]
    if (height, width) != tiles.size:
        raise UsageError(
            "images of {}x{} px were to be scored by tiles, ".format(*tiles.size)
            + f"{height}x{width} px came; set data.image_size to that"
        )
    if not len(image):
        return image.new_zeros(0, *tiles.size), image.new_zeros(0)
    return _joined(
        [
            _score_one(score, (one,) if ignore is None else (one, ignore[k]), tiles, block)
            for k, one in enumerate(image)
        ]
    )


def _score_one(
    score: Callable[..., tuple[Tensor | None, ...]],
    wholes: tuple[Tensor, ...],
    tiles: Tiles,
    block: int,
) -> tuple[Tensor | None, ...]:
    whole, parts = wholes[0].new_zeros(1, *tiles.size), []
    for start in range(0, len(tiles), block):
        numbers = range(start, min(start + block, len(tiles)))
        maps, *values = score(
            *(torch.stack([tiles.cut(one, number) for number in numbers]) for one in wholes)
        )
        for number, map in zip(numbers, maps, strict=True):
            tiles.blend(whole[0], map, number)
        parts.append(values)
    values = _joined(parts)
    scores = values[0]
    if len(wholes) > 1:
        nothing = torch.stack([tiles.cut(wholes[1], number).all() for number in range(len(tiles))])
        scores = scores.masked_fill(nothing, -torch.inf)
    worst = int(scores.argmax())
    return whole, *(None if v is None else v[worst : worst + 1] for v in values)


def _joined(parts: list) -> tuple[Tensor | None, ...]:
    return tuple(
        None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True)
    )
