"""Cuts an image into overlapping tiles, and blends what comes from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from lightning_ad.errors import UsageError

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
            raise UsageError(
                f"data.tile must be a multiple of {STEP}, and at least {2 * STEP} px; {tile} came"
            )
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
        tops, lefts = (
            tile_offsets(*axis, self.overlap) for axis in zip(self.size, self.shape, strict=True)
        )
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
    return (
        torch.cat([torch.ones(1, tile), taken]) - torch.cat([left, torch.zeros(1, tile)])
    ).float()


def _smooth(x: Tensor) -> Tensor:
    """From 0 at 0 to 1 at 1, with level ends."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)
