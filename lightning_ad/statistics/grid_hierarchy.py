"""Grids of several levels, and which cells of a fine grid lie in which cell of a coarse one.

Feature maps of several levels, the coarse ones replicated onto the finest grid, give one vector for
each of its positions. If the coarsest level's dimensions come first, the upper rows of a position's
covariance matrix, and of its Cholesky factor, are the same for all positions of a coarse cell. Each
level therefore adds only its own rows, kept once for each of its cells. With D = 100 dimensions at
strides 4, 8 and 16 that is about a quarter of the numbers, and fewer operations.
"""

import itertools
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_ad.system.threads import map_single_threaded

# Which cells there are, and in which order: checkpoints rely on it. Raise it with any change.
LAYOUT = 2
# Bytes worked on together: on a CPU few enough for a core's cache and enough to be worth a call; an
# accelerator wants more at a time.
BLOCK_BYTES = 2**23
BLOCK_BYTES_ON_DEVICE = 2**29


class GridHierarchy:
    """The cells of grids of several levels, each contained in a cell of the coarser level.

    A *level* has n cells, d dimensions of its own, and D dimensions together with those of the
    coarser levels, which come first. The cells of the first level are called *coarse cells*. All
    cells of a level contain the same number of cells of the next, numbered one after another.

    Example: grids of 2x3, 4x6 and 8x12 cells. Each of the 6 coarse cells contains 4 cells of level
    1, each of which contains 4 cells of level 2 (drawn for the coarse cell 0 only):

        level 0, 2x3              level 1, 4x6              level 2, in coarse cell 0
        +-----+-----+-----+       +-----+-----+-----+       +-----+-----+
        |     |     |     |       | 0  1| 4  5| 8  9|       | 0  1| 4  5|
        |  0  |  1  |  2  |       | 2  3| 6  7|10 11|       | 2  3| 6  7|
        +-----+-----+-----+       +-----+-----+-----+       +-----+-----+
        |     |     |     |       |12 13|16 17|20 21|       | 8  9|12 13|
        |  3  |  4  |  5  |       |14 15|18 19|22 23|       |10 11|14 15|
        +-----+-----+-----+       +-----+-----+-----+       +-----+-----+

    A matrix [D, D] for each cell is kept by *block rows*: a level keeps its own last d rows, as
    blocks [n, d, d'], one for each level up to itself.

    Maps are replicated by nearest neighbour. If the sides of two grids do not divide one another, a
    cell of the fine grid can lie in several coarse cells: each part is then a cell of its own. Some
    coarse cells contain fewer parts than others; those that are missing are spare cells, which no
    position lies in and whose place is 0. A coarse cell is cut in two if that keeps fewer numbers.

    Args:
        grids: (height, width) of each level, the coarsest first.
        dimensions: d of each level.
        positions: (height, width) of the grid that all levels are replicated onto.
        device: of the indices.

    Attributes:
        dimensions: d of each level.
        places: for each level, int64 [n]: the place of each cell in the level's own grid.
        cells: int64 [P]: the cell of the last level that each position lies in.
    """

    def __init__(
        self,
        grids: Sequence[tuple[int, int]],
        dimensions: Sequence[int],
        positions: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.dimensions = list(dimensions)
        row_places = [_nearest(height, positions[0]) for height, _ in grids]
        column_places = [_nearest(width, positions[1]) for _, width in grids]
        rows, columns = _smallest_split(row_places, column_places, dimensions)
        self.places: list[Tensor] = []
        cells = torch.zeros(positions, dtype=torch.int64)
        for level, (_, width) in enumerate(grids):
            down = torch.tensor(rows.paths[level])[:, None]
            right = torch.tensor(columns.paths[level])
            cells_in_row = cells * rows.branching[level] + down
            cells = cells_in_row * columns.branching[level] + right
            row = torch.tensor(row_places[level])[:, None]
            column = torch.tensor(column_places[level])
            places = cells.new_zeros(rows.counts[level] * columns.counts[level])
            places[cells] = row * width + column
            self.places.append(places.to(device))
        self.cells = cells.flatten().to(device)

    def cell_counts(self) -> list[int]:
        """Returns n of each level."""
        return [len(places) for places in self.places]

    def vector_sizes(self) -> list[int]:
        """Returns the length n d of the vectors of all cells of each level, for one image."""
        return list(map(operator.mul, self.cell_counts(), self.dimensions))

    def matrix_sizes(self) -> list[int]:
        """Returns the length n d D of the block rows of all cells of each level."""
        return _matrix_sizes(self.cell_counts(), self.dimensions)

    def cells_per_coarse_cell(self, level: int) -> int:
        """Returns how many cells of a level lie in each coarse cell."""
        return len(self.places[level]) // len(self.places[0])

    def cell_range(self, level: int, coarse: slice) -> slice:
        """Returns the cells of a level that lie in the given coarse cells."""
        contained = self.cells_per_coarse_cell(level)
        return slice(coarse.start * contained, coarse.stop * contained)

    def flatten(self, maps: Sequence[Tensor]) -> Tensor:
        """Gathers the vectors of the cells of all levels.

        Args:
            maps: of each level, [B, height * width, d].

        Returns:
            [B, sum of n d]: level after level, cell after cell.
        """
        vectors = []
        for level_map, places in zip(maps, self.places, strict=True):
            vectors.append(level_map.index_select(1, places).flatten(1))
        return torch.cat(vectors, 1)

    def vectors_in(self, flat: Tensor, coarse: slice) -> list[Tensor]:
        """Returns the vectors that lie in the given coarse cells, for each level.

        Args:
            flat: as `flatten` returns it.
            coarse: some of the coarse cells.

        Returns:
            Views [coarse cells, B, k * d] of `flat`, k the cells of the level in each coarse cell.
        """
        count = len(self.places[0])
        vectors = []
        for part in flat.split(self.vector_sizes(), 1):
            by_coarse_cell = part.unflatten(1, (count, -1))
            own = by_coarse_cell[:, coarse]
            vectors.append(own.transpose(0, 1))
        return vectors

    def for_each_block(self, work: Callable[[slice], None], total_bytes: int) -> None:
        """Calls `work` for one block of coarse cells after another; on a CPU each on one thread.

        Args:
            work: what to do with some coarse cells and all cells in them.
            total_bytes: what it would hold in memory for all coarse cells at once.
        """
        count = len(self.places[0])
        on_cpu = self.cells.device.type == "cpu"
        block_bytes = BLOCK_BYTES if on_cpu else BLOCK_BYTES_ON_DEVICE
        size = block_bytes * count // max(total_bytes, 1) + 1
        blocks = []
        for start in range(0, count, size):
            stop = min(start + size, count)
            blocks.append(slice(start, stop))
        if on_cpu:
            map_single_threaded(work, blocks)
            return
        for block in blocks:
            work(block)


@lru_cache(maxsize=8)
def cached_hierarchy(
    grids: tuple[tuple[int, int], ...],
    dimensions: tuple[int, ...],
    positions: tuple[int, int],
    device: torch.device,
) -> GridHierarchy:
    """Returns a `GridHierarchy` that is built once; its indices can also be used with gradients."""
    with torch.inference_mode(False):
        return GridHierarchy(grids, dimensions, positions, device)


def regroup_by_cell(values: Tensor, cells: int) -> Tensor:
    """Regroups [coarse, B, cells * D] to one row for each cell, [coarse * cells, B, D]."""
    if cells == 1:
        return values
    by_cell = values.unflatten(2, (cells, -1))
    return by_cell.transpose(1, 2).flatten(0, 1)


class _AxisSplit(NamedTuple):
    """A way to cut one axis into the parts of each level.

    Attributes:
        counts: the number of parts of each level.
        branching: the number of parts of each level in a part of the level before.
        paths: for each level and position, the number of its part within the part of the level
            before.
    """

    counts: list[int]
    branching: list[int]
    paths: list[list[int]]


def _matrix_sizes(counts: Sequence[int], dimensions: Sequence[int]) -> list[int]:
    with_coarser = itertools.accumulate(dimensions)
    blocks = map(operator.mul, counts, dimensions)
    return list(map(operator.mul, blocks, with_coarser))


def _smallest_split(
    row_places: list[list[int]], column_places: list[list[int]], dimensions: Sequence[int]
) -> tuple[_AxisSplit, _AxisSplit]:
    """Returns the splits of the two axes with which the fewest numbers are kept."""

    def kept_numbers(splits: tuple[_AxisSplit, _AxisSplit]) -> int:
        rows, columns = splits
        counts = map(operator.mul, rows.counts, columns.counts)
        return sum(_matrix_sizes(list(counts), dimensions))

    choices = itertools.product(_axis_splits(row_places), _axis_splits(column_places))
    return min(choices, key=kept_numbers)


def _axis_splits(places: list[list[int]]) -> list[_AxisSplit]:
    """Returns the splits of an axis for each number of parts that a part may contain.

    Args:
        places: for each level and position, the place on the level's own axis.
    """
    splits = []
    choices = [range(1, most + 1) for most in _most_parts(places)]
    for branching in itertools.product(*choices):
        paths = _paths(places, branching)
        with_coarse = [max(paths[0]) + 1, *branching]
        counts = itertools.accumulate(with_coarse, operator.mul)
        splits.append(_AxisSplit(list(counts), with_coarse, paths))
    return splits


def _most_parts(places: list[list[int]]) -> list[int]:
    """Returns, for each level but the first, the most parts in any part of the level before."""
    most = []
    for level in range(1, len(places)):
        parts = set(zip(*places[: level + 1], strict=True))
        contained = Counter(part[:-1] for part in parts)
        most.append(max(contained.values()))
    return most


def _paths(places: list[list[int]], branching: Sequence[int]) -> list[list[int]]:
    """Walks along an axis and numbers each level's part within the part of the level before."""
    paths: list[list[int]] = [[] for _ in places]
    path = [-1] + [0] * len(branching)
    before = None
    for here in zip(*places, strict=True):
        if here != before:
            path = _next_path(path, _first_difference(before, here), branching)
            before = here
        for level, part in enumerate(path):
            paths[level].append(part)
    return paths


def _first_difference(before: tuple[int, ...] | None, here: tuple[int, ...]) -> int:
    """Returns the coarsest level at which two different positions have different places."""
    if before is None:
        return 0
    return next(level for level, place in enumerate(here) if place != before[level])


def _next_path(path: list[int], level: int, branching: Sequence[int]) -> list[int]:
    """Begins the next part of a level, or of a coarser one if the part that contains it is full."""
    while level and path[level] + 1 == branching[level - 1]:
        level -= 1
    finer = [0] * (len(branching) - level)
    return [*path[:level], path[level] + 1, *finer]


def _nearest(size: int, positions: int) -> list[int]:
    """Returns the nearest place on an axis of `size` of each position, without rounding errors."""
    return [position * size // positions for position in range(positions)]
