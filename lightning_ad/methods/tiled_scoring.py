"""Scores large images tile by tile, and blends the tiles' maps into one without seams."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_ad.data.tiling import Tiles
from lightning_ad.errors import UsageError
from lightning_ad.features.backbone import BLOCK

TOGETHER = 4  # tiles that are scored together on a CPU, at most: each takes memory

Scored = tuple[Tensor | None, ...]  # maps, scores and more values for each image or tile


def tiles_together(device: torch.device, one_thread_per_image: bool) -> int:
    """Returns how many tiles of an image to score together.

    With `one_thread_per_image`, each of them has a thread of its own on a CPU.
    """
    if device.type == "cpu" and one_thread_per_image:
        return min(TOGETHER, torch.get_num_threads())
    return BLOCK.get(device.type, 1)


def score_by_tiles(
    score: Callable[..., Scored],
    image: Tensor,
    tiles: Tiles,
    block: int = 1,
    ignore: Tensor | None = None,
) -> Scored:
    """Scores large images; holds little more than their maps and what `block` tiles take.

    Args:
        score: takes tiles [n, C, h, w] and gives maps [n, h, w], scores [n] and more values for
            each tile, or None for them.
        image: [B, C, H, W].
        tiles: of that size.
        block: number of tiles that are scored together.
        ignore: bool [B, H, W], of which `score` gets the tiles too; a tile that is ignored
            everywhere gives no score. None for nothing.

    Returns:
        Blended maps [B, H, W], scores [B], the largest of each image's tiles, and the other values
        of that tile.

    Raises:
        UsageError: for images of another size.
    """
    size = tuple(image.shape[2:])
    if size != tuple(tiles.size):
        raise UsageError(
            "expected images of {}x{} px to score by tiles, ".format(*tiles.size)
            + "got {}x{} px: set data.image_size to that".format(*size)
        )
    if not len(image):
        return image.new_zeros(0, *tiles.size), image.new_zeros(0)
    scored = []
    for number in range(len(image)):
        one_ignore = None if ignore is None else ignore[number]
        scored.append(_score_image(score, image[number], tiles, block, one_ignore))
    return _concatenate(scored)


def _score_image(
    score: Callable[..., Scored], image: Tensor, tiles: Tiles, block: int, ignore: Tensor | None
) -> Scored:
    """Scores one image [C, H, W]; the result has a batch dimension of 1."""
    blended = image.new_zeros(1, *tiles.size)
    parts = []
    for start in range(0, len(tiles), block):
        numbers = range(start, min(start + block, len(tiles)))
        inputs = [_cut(image, tiles, numbers)]
        if ignore is not None:
            inputs.append(_cut(ignore, tiles, numbers))
        maps, *values = score(*inputs)
        for number, map in zip(numbers, maps, strict=True):
            tiles.blend(blended[0], map, number)
        parts.append(tuple(values))
    scores, *others = _concatenate(parts)
    if ignore is not None:
        nothing = [tiles.cut(ignore, number).all() for number in range(len(tiles))]
        scores = scores.masked_fill(torch.stack(nothing), -torch.inf)
    worst = int(scores.argmax())
    of_worst = [None if value is None else value[worst : worst + 1] for value in others]
    return blended, scores[worst : worst + 1], *of_worst


def _cut(whole: Tensor, tiles: Tiles, numbers: range) -> Tensor:
    return torch.stack([tiles.cut(whole, number) for number in numbers])


def _concatenate(parts: list[Scored]) -> Scored:
    """Concatenates each value over the parts; None stays None."""
    fields = zip(*parts, strict=True)
    return tuple(None if field[0] is None else torch.cat(field) for field in fields)
