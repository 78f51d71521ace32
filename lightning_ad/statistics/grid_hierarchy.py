"""Grids that lie in one another.

Features of several levels, the coarse ones replicated onto the finest grid, are one vector at each of its positions.
With the coarsest level's dimensions first, the upper rows of a position's covariance, and of its Cholesky factor, are
those of the coarse cell that it lies in. So level by level only the last rows are new: of D = 100 dimensions of
strides 4, 8 and 16 about a quarter of the numbers, and less of the operations.

A *stage* is a level with all that are coarser. It has n cells, d dimensions of its own, and with those of the coarser
levels, which come first, D. A cell has cells of each later stage in it, as many as each other, one after another; a
cell of the first stage is a *root*. Of a matrix [D, D] of each cell, the last rows are kept by *blocks* [n, d, d'], one
for each stage so far, its own last.
"""

import itertools
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_ad.system.threads import map_single_threaded

LAYOUT = 2  # of which cells there are, in which order: checkpoints have them; to be raised with any change
HELD = (
    2**23
)  # bytes that are looked at together on a CPU: few enough for a core's cache, and worth a turn
HELD_ON_DEVICE = 2**29  # likewise on an accelerator, which wants more at a time


class Nesting:
    """Which cells of coarse grids the cells of finer ones lie in; maps are replicated by nearest neighbour.

    Where sides do not divide one another, a cell of a fine grid can lie in several of a coarse one: each such part is a
    cell of its own. Some cells then have fewer cells in them than others: what they lack is there to spare, no position
    lies in it, and its place is 0. Cells are cut where that leaves fewer numbers to keep.

    Args:
        grids: (height, width) of each level, the coarsest first.
        dimensions: d of each level.
        positions: (height, width) of the grid that all of them are replicated onto.
        device: of the indices.

    Attributes:
        dimensions: d of each stage.
        places: of each stage, int64 [n]: the place of its own level's grid that a cell lies in.
        cells: int64 [P]: the cell of the last stage that each position lies in.
    """

    def __init__(
        self,
        grids: Sequence[tuple[int, int]],
        dimensions: Sequence[int],
        positions: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.dimensions = list(dimensions)
        axes = [[_nearest(grid[axis], positions[axis]) for grid in grids] for axis in (0, 1)]
        rows, columns = min(
            itertools.product(*(_divisions(axis) for axis in axes)),
            key=lambda both: sum(
                _numbers(
                    [r * c for r, c in zip(*(d.counts for d in both), strict=True)], dimensions
                )
            ),
        )
        self.places: list[Tensor] = []
        cells = torch.zeros(positions, dtype=torch.int64)
        for stage, (_, width) in enumerate(grids):
            down, right = (
                torch.tensor(rows.paths[stage])[:, None],
                torch.tensor(columns.paths[stage]),
            )
            cells = (cells * rows.branching[stage] + down) * columns.branching[stage] + right
            places = cells.new_zeros(rows.counts[stage] * columns.counts[stage])
            places[cells] = torch.tensor(axes[0][stage])[:, None] * width + torch.tensor(
                axes[1][stage]
            )
            self.places.append(places.to(device))
        self.cells = cells.flatten().to(device)

    def counts(self) -> list[int]:
        """n of each stage."""
        return [len(places) for places in self.places]

    def vectors(self) -> list[int]:
        """How many numbers of their own the cells of each stage have in one image, n d."""
        return [n * own for n, own in zip(self.counts(), self.dimensions, strict=True)]

    def numbers(self) -> list[int]:
        """How many numbers the last rows of a matrix for each cell of each stage have, n d D."""
        return _numbers(self.counts(), self.dimensions)

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
            [
                m.index_select(1, places).flatten(1)
                for m, places in zip(levels, self.places, strict=True)
            ],
            1,
        )

    def own(self, flat: Tensor, roots: slice) -> list[Tensor]:
        """Of each stage, what its k cells in each of some roots have, [roots, B, k d], from `flat`."""
        parts = flat.split(self.vectors(), 1)
        return [
            part.unflatten(1, (len(self.places[0]), -1))[:, roots].transpose(0, 1) for part in parts
        ]

    def for_roots(self, work: Callable[[slice], None], held: int) -> None:
        """Does all roots, and what is in them, some at a time; on a CPU each time on one thread.

        Args:
            work: is given some of them.
            held: bytes that would be held for all of them at once.
        """
        roots, on_cpu = len(self.places[0]), self.cells.device.type == "cpu"
        some = (HELD if on_cpu else HELD_ON_DEVICE) * roots // max(held, 1) + 1
        turns = [slice(start, min(start + some, roots)) for start in range(0, roots, some)]
        if on_cpu:
            map_single_threaded(work, turns)
        else:
            for turn in turns:
                work(turn)


@lru_cache(maxsize=8)
def nesting(
    grids: tuple[tuple[int, int], ...],
    dimensions: tuple[int, ...],
    positions: tuple[int, int],
    device: torch.device,
) -> Nesting:
    """A `Nesting`, which is made once; its indices are of use where gradients are asked for, too."""
    with torch.inference_mode(False):
        return Nesting(grids, dimensions, positions, device)


def by_cell(values: Tensor, cells: int) -> Tensor:
    """Of each of the `cells` in a root, what those in it have: [roots cells, B, D] from [roots, B, cells D]."""
    return values if cells == 1 else values.unflatten(2, (cells, -1)).transpose(1, 2).flatten(0, 1)


class _Division(NamedTuple):
    """Of one axis.

    Attributes:
        counts: of each stage, its parts.
        branching: those in a part of the stage before.
        paths: of each stage and position, in which of the latter it lies.
    """

    counts: list[int]
    branching: list[int]
    paths: list[list[int]]


def _numbers(counts: Sequence[int], dimensions: Sequence[int]) -> list[int]:
    whole = itertools.accumulate(dimensions)
    return [n * own * above for n, own, above in zip(counts, dimensions, whole, strict=True)]


def _divisions(places: list[list[int]]) -> list[_Division]:
    """The ways to divide an axis, by how many parts each stage may have in a part of the stage before.

    Args:
        places: of each stage, at each position, the place of its own level's axis.
    """
    stages = [list(zip(*places[: stage + 1], strict=True)) for stage in range(len(places))]
    wholes = [[{one for one in later if one[:-1] == part} for part in set(before)]
              for before, later in itertools.pairwise(stages)]  # fmt: skip
    most = [max(len(parts) for parts in whole) for whole in wholes]
    divisions = []
    for branching in itertools.product(*(range(1, number + 1) for number in most)):
        paths = _paths(places, branching)
        roots = max(paths[0]) + 1
        counts = list(itertools.accumulate(branching, operator.mul, initial=roots))
        divisions.append(_Division(counts, [roots, *branching], paths))
    return divisions


def _paths(places: list[list[int]], branching: Sequence[int]) -> list[list[int]]:
    """Goes along an axis, and begins another part of an earlier stage where there is no room in that of a later one."""
    paths: list[list[int]] = [[] for _ in places]
    path, before = [-1] + [0] * len(branching), None
    for here in zip(*places, strict=True):
        if here != before:
            stage = (
                0 if before is None else next(k for k in range(len(here)) if here[k] != before[k])
            )
            while stage and path[stage] + 1 == branching[stage - 1]:
                stage -= 1
            path = [*path[:stage], path[stage] + 1, *[0] * (len(branching) - stage)]
            before = here
        for own, part in zip(paths, path, strict=True):
            own.append(part)
    return paths


def _nearest(size: int, positions: int) -> list[int]:
    """The place on an axis of `size` that each position takes, as nearest neighbours do but for their rounding."""
    return [position * size // positions for position in range(positions)]
