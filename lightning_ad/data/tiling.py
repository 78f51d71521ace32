"""Cuts an image into overlapping tiles, and blends the maps of the tiles."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from lightning_ad.errors import UsageError

# Tiles begin at multiples of the networks' stride, so that their grids agree with the image's.
STEP = 32


@dataclass(frozen=True)
class Tiles:
    """Tiles of one shape that cover images of one size, numbered row by row.

    Attributes:
        size: [h, w] of the images.
        shape: [h, w] of a tile, at most `size`.
        overlap: the overlap of neighbours in pixels. The last row and column end at the border of
            the image, and overlap more.
    """

    size: tuple[int, int]
    shape: tuple[int, int]
    overlap: int

    @classmethod
    def of(cls, size: tuple[int, int], tile: int, overlap: int) -> Self:
        """Makes the tiles of `data.tile` and `data.tile_overlap`.

        Raises:
            UsageError: if these are not multiples of 32, or neighbours would not overlap or not
                advance.
        """
        if tile < 2 * STEP or tile % STEP:
            raise UsageError(
                f"data.tile: expected a multiple of {STEP}, at least {2 * STEP} px, got {tile}"
            )
        if overlap % STEP or not STEP <= overlap <= tile - STEP:
            raise UsageError(
                f"data.tile_overlap: expected a multiple of {STEP} from {STEP} to {tile - STEP} px "
                f"for a data.tile of {tile}, got {overlap}: add --data.tile_overlap {STEP}, say"
            )
        height, width = size
        return cls(size, (min(tile, height), min(tile, width)), overlap)

    def __len__(self) -> int:
        return len(self.origins)

    @cached_property
    def origins(self) -> list[tuple[int, int]]:
        """Top and left of each tile."""
        return [(top, left) for top in self._tops for left in self._lefts]

    @cached_property
    def weights(self) -> tuple[Tensor, Tensor]:
        """Blending weights of a tile's rows, by top [tops, h], and columns, by left [lefts, w]."""
        height, width = self.shape
        rows = blending_weights(self._tops, height, self.overlap)
        columns = blending_weights(self._lefts, width, self.overlap)
        return rows, columns

    @property
    def _tops(self) -> list[int]:
        return tile_offsets(self.size[0], self.shape[0], self.overlap)

    @property
    def _lefts(self) -> list[int]:
        return tile_offsets(self.size[1], self.shape[1], self.overlap)

    def cut(self, image: Tensor, number: int) -> Tensor:
        """Returns a tile of [..., H, W], as a view."""
        top, left = self.origins[number]
        height, width = self.shape
        return image[..., top : top + height, left : left + width]

    def blend(self, whole: Tensor, map: Tensor, number: int) -> None:
        """Adds the map [h, w] of a tile, weighted, to that of the image [H, W], zeros at first."""
        rows, columns = self.weights
        row, column = divmod(number, len(columns))
        weight = rows[row, :, None] * columns[column]
        self.cut(whole, number).addcmul_(map, weight.to(map.device))


def tile_offsets(length: int, tile: int, overlap: int) -> list[int]:
    """Returns where tiles begin along a side: `tile - overlap` apart, the last one at the end."""
    last = max(length - tile, 0)
    return [*range(0, last, tile - overlap), last]


def blending_weights(offsets: list[int], tile: int, overlap: int) -> Tensor:
    """Returns the weight of each pixel of each tile along one side, float32 [n, tile].

    The weights of a pixel of the image sum to one. A tile counts for nothing in the outer third of
    the overlap, where its network's view is cut off, and fades smoothly in the middle third. At the
    border of the image it counts in full. Where tiles overlap more, the earlier one keeps what it
    would have had.
    """
    margin = overlap // 3
    fade = overlap - 2 * margin
    begin = torch.tensor(offsets, dtype=torch.float64)
    pixel = begin[:, None] + torch.arange(tile) + 0.5
    # Tile i hands over to i + 1 here. A weight is a difference of two such steps, so that the sum
    # telescopes to one.
    handover = (begin[:-1] + tile - margin - fade)[:, None]
    taken = _smooth((pixel[1:] - handover) / fade)
    left = _smooth((pixel[:-1] - handover) / fade)
    fade_in = torch.cat([torch.ones(1, tile), taken])
    fade_out = torch.cat([left, torch.zeros(1, tile)])
    return (fade_in - fade_out).float()


def _smooth(x: Tensor) -> Tensor:
    """Rises from 0 at 0 to 1 at 1, with level ends."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)
