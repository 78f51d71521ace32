"""Large images by tiles: where they lie, how they are cut, and how their maps become one without seams."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from lightning_ad.errors import UsageError
from lightning_ad.features.backbone import BLOCK

TOGETHER = 4  # tiles that are scored together on a CPU, at most: each takes memory
STEP = 32  # strided networks see the grid of the whole image in tiles that begin at multiples of their stride


@dataclass(frozen=True)
class Tiles:
    """Tiles of one shape that cover images of one size, numbered row by row.

    Attributes:
        size: [h, w] of the images.
        shape: [h, w] of a tile; an image that is smaller than a tile is one.
        overlap: of neighbours, in pixels. The last row and column end at the border of the image, and overlap more.
    """

    size: tuple[int, int]
    shape: tuple[int, int]
    overlap: int

    @classmethod
    def of(cls, size: tuple[int, int], tile: int, overlap: int) -> Self:
        """From `data.tile` and `data.tile_overlap`.

        Raises:
            UsageError: where these are not multiples of 32, or neighbours would not overlap or not advance.
        """
        if tile < 2 * STEP or tile % STEP:
            raise UsageError(f"data.tile must be a multiple of {STEP}, and at least {2 * STEP} px; {tile} came")
        if overlap % STEP or not STEP <= overlap <= tile - STEP:
            raise UsageError(
                f"data.tile_overlap must be a multiple of {STEP} within {STEP} and {tile - STEP} px "
                f"for a data.tile of {tile}; it is {overlap}: add --data.tile_overlap {STEP}, say"
            )
        return cls(size, (min(tile, size[0]), min(tile, size[1])), overlap)

    def __len__(self) -> int:
        return len(self.origins)

    @cached_property
    def origins(self) -> list[tuple[int, int]]:
        """Top and left of each tile."""
        tops, lefts = (tile_offsets(*axis, self.overlap) for axis in zip(self.size, self.shape, strict=True))
        return [(top, left) for top in tops for left in lefts]

    @cached_property
    def weights(self) -> tuple[Tensor, Tensor]:
        """Of the tiles' rows of pixels, by top [tops, h], and of their columns, by left [lefts, w]."""
        rows, columns = (
            blending_weights(tile_offsets(side, tile, self.overlap), tile, self.overlap)
            for side, tile in zip(self.size, self.shape, strict=True)
        )
        return rows, columns

    def cut(self, image: Tensor, number: int) -> Tensor:
        """A tile of [..., H, W], as a view."""
        (top, left), (height, width) = self.origins[number], self.shape
        return image[..., top : top + height, left : left + width]

    def blend(self, whole: Tensor, map: Tensor, number: int) -> None:
        """Adds the map [h, w] of a tile, weighted, to that of the image [H, W], zeros at first."""
        rows, columns = self.weights
        row, column = divmod(number, len(columns))
        weight = rows[row, :, None] * columns[column]
        self.cut(whole, number).addcmul_(map, weight.to(map.device))


def tile_offsets(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side of `length`: each `tile - overlap` after the last, the final one at the end."""
    last = max(length - tile, 0)
    return [*range(0, last, tile - overlap), last]


def blending_weights(offsets: list[int], tile: int, overlap: int) -> Tensor:
    """Of the pixels of each tile along one side, float32 [n, tile]; those of a pixel of the image sum to one.

    A tile counts for nothing in the outer third of the overlap, where its network's view is cut off, and fades
    smoothly in the middle third. At the border of the image it counts in full. Where tiles overlap more, the earlier
    one keeps what it would have had.
    """
    margin = overlap // 3
    fade = overlap - 2 * margin
    begin = torch.tensor(offsets, dtype=torch.float64)
    pixel = begin[:, None] + torch.arange(tile) + 0.5
    # Tile i hands over to i + 1 here. A weight is a difference of two such steps, so that the sum telescopes to one.
    handover = (begin[:-1] + tile - margin - fade)[:, None]
    taken, left = (_smooth((pixels - handover) / fade) for pixels in (pixel[1:], pixel[:-1]))
    return (torch.cat([torch.ones(1, tile), taken]) - torch.cat([left, torch.zeros(1, tile)])).float()


def _smooth(x: Tensor) -> Tensor:
    """From 0 at 0 to 1 at 1, with level ends."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def tiles_together(device: torch.device, side_by_side: bool) -> int:
    """How many tiles of an image to score together; `side_by_side`: on a CPU, each has a thread of its own."""
    if device.type == "cpu" and side_by_side:
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
        [_score_one(score, (one,) if ignore is None else (one, ignore[k]), tiles, block) for k, one in enumerate(image)]
    )


def _score_one(
    score: Callable[..., tuple[Tensor | None, ...]], wholes: tuple[Tensor, ...], tiles: Tiles, block: int
) -> tuple[Tensor | None, ...]:
    whole, parts = wholes[0].new_zeros(1, *tiles.size), []
    for start in range(0, len(tiles), block):
        numbers = range(start, min(start + block, len(tiles)))
        maps, *values = score(*(torch.stack([tiles.cut(one, number) for number in numbers]) for one in wholes))
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
    return tuple(None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True))
