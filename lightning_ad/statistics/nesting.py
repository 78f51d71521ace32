"""Grids that lie in one another.

Features of several levels, the coarse ones replicated onto the finest grid, are one vector at each of its positions.
With the coarsest level's dimensions first, the upper rows of a position's covariance, and of its Cholesky factor, are
those of the coarse cell that it lies in. So level by level only the last rows are new: of D = 100 dimensions of
strides 4, 8 and 16 about a quarter of the numbers, and less of the operations.

A *stage* is a level with all that are coarser. It has n cells, d dimensions of its own, and with those of the coarser
levels, which come first, D. A cell has cells of each later stage in it, as many as each other, one after another. Of a
matrix [D, D] of each cell, the last rows are kept by *blocks* [n, d, d'], one for each stage so far, its own last.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.parallel import each_alone

HELD = 2**23  # bytes that are looked at together on a CPU: few enough for a core's cache, and worth a turn


class Nesting:
    """Which cells of coarse grids the cells of finer ones lie in; maps are replicated by nearest neighbour.

    Where sides do not divide one another, a cell of a fine grid can lie in several of a coarse one: each such part is a
    cell of its own. And where cells have fewer cells in them than others have, there are some to spare, which no
    position lies in; their place is 0.

    Args:
        grids: (height, width) of each level, the coarsest first.
        positions: (height, width) of the grid that all of them are replicated onto.
        device: of the indices.

    Attributes:
        places: of each stage, int64 [n]: the place of its own level's grid that a cell lies in.
        cells: int64 [P]: the cell of the last stage that each position lies in.
    """

    def __init__(
        self, grids: Sequence[tuple[int, int]], positions: tuple[int, int], device: torch.device | str = "cpu"
    ) -> None:
        replicated = []
        for height, width in grids:
            numbers = torch.arange(height * width, dtype=torch.float64).view(1, 1, height, width)
            replicated.append(F.interpolate(numbers, positions, mode="nearest").flatten().long())
        self.places: list[Tensor] = []
        cells, count = torch.zeros_like(replicated[0]), 1
        for stage in range(1, len(grids) + 1):
            found, which = torch.stack(replicated[:stage]).unique(dim=1, return_inverse=True)  # in order of parents
            parents = cells.new_empty(found.shape[1])
            parents[which] = cells
            inside = parents.bincount(minlength=count)
            most = int(inside.max())
            numbers = parents * most + torch.arange(len(parents)) - (inside.cumsum(0) - inside)[parents]
            count *= most
            places = cells.new_zeros(count)
            places[numbers] = found[-1]
            cells = numbers[which]
            self.places.append(places.to(device))
        self.cells = cells.to(device)

    def counts(self) -> list[int]:
        """n of each stage."""
        return [len(places) for places in self.places]

    def inside(self, stage: int) -> int:
        """How many cells of a stage lie in a cell of the first, which is called a root."""
        return len(self.places[stage]) // len(self.places[0])

    def part(self, stage: int, roots: slice) -> slice:
        """The cells of a stage in some of the roots."""
        inside = self.inside(stage)
        return slice(roots.start * inside, roots.stop * inside)

    def flat(self, levels: Sequence[Tensor]) -> Tensor:
        """What cells have of their own, from the levels' maps [B, h w, d]: [B, n d of all stages]."""
        return torch.cat(
            [m.index_select(1, places).flatten(1) for m, places in zip(levels, self.places, strict=True)], 1
        )

    def own(self, flat: Tensor, dimensions: Sequence[int], roots: slice) -> list[Tensor]:
        """Of each stage, what its k cells in each of some roots have: [roots, B, k d].

        Args:
            flat: [B, n d of all stages].
            dimensions: d of each stage.
            roots: the first and the one behind the last.
        """
        parts = flat.split([n * d for n, d in zip(self.counts(), dimensions, strict=True)], 1)
        return [part.unflatten(1, (len(self.places[0]), -1))[:, roots].transpose(0, 1) for part in parts]

    def for_roots(self, work: Callable[[slice], None], held: int) -> None:
        """Does all roots, and what is in them; on a CPU some at a time, each time on one thread.

        Args:
            work: is given some of them.
            held: bytes that would be held for all of them at once.
        """
        roots = len(self.places[0])
        some = roots if self.cells.device.type != "cpu" else HELD * roots // max(held, 1) + 1
        each_alone(work, [slice(start, min(start + some, roots)) for start in range(0, roots, some)])


@lru_cache(maxsize=8)
def nesting(grids: tuple[tuple[int, int], ...], positions: tuple[int, int], device: torch.device) -> Nesting:
    """A `Nesting`, which is made once; its indices are of use where gradients are asked for, too."""
    with torch.inference_mode(False):
        return Nesting(grids, positions, device)


def by_cell(values: Tensor, cells: int) -> Tensor:
    """Of each of the `cells` in a root, what those in it have: [roots cells, B, D] from [roots, B, cells D]."""
    return values if cells == 1 else values.unflatten(2, (cells, -1)).transpose(1, 2).flatten(0, 1)
