"""Grids that lie in one another, and the moments of what stands on them.

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
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.parallel import each_alone
from lightning_ad.statistics.distributed import world_size
from lightning_ad.statistics.moments import Blocks

HELD = 2**23  # bytes that are looked at together on a CPU: near a core's cache, and not too few


class Nesting:
    """Which cells of coarse grids the cells of finer ones lie in; maps are replicated by nearest neighbour.

    Where sides do not divide one another, a cell of a fine grid can lie in several of a coarse one: each such part is a
    cell of its own. And where cells have fewer cells in them than others have, there are some to spare, which no
    position lies in.

    Args:
        grids: (height, width) of each level, the coarsest first.
        positions: (height, width) of the grid that all of them are replicated onto.
        device: of the indices.

    Attributes:
        sizes: places of each level's grid.
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
        self.sizes = [height * width for height, width in grids]
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

    def part(self, stage: int, roots: slice) -> slice:
        """The cells of a stage in some of the first stage's cells."""
        inside = len(self.places[stage]) // len(self.places[0])
        return slice(roots.start * inside, roots.stop * inside)

    def flat(self, levels: Sequence[Tensor]) -> Tensor:
        """What cells have of their own, from the levels' maps [B, h w, d]: [B, n d of all stages]."""
        return torch.cat(
            [m.index_select(1, places).flatten(1) for m, places in zip(levels, self.places, strict=True)], 1
        )

    def own(self, flat: Tensor, dimensions: Sequence[int], roots: slice) -> list[Tensor]:
        """Of each stage and of some of the first stage's cells, what those in them have: [roots, B, k d].

        Args:
            flat: [B, n d of all stages].
            dimensions: d of each stage.
            roots: the first stage's cells.
        """
        parts = flat.split([n * d for n, d in zip(self.counts(), dimensions, strict=True)], 1)
        return [part.unflatten(1, (len(self.places[0]), -1))[:, roots].transpose(0, 1) for part in parts]

    def for_roots(self, work: Callable[[slice], None], held: int) -> None:
        """Does all cells of the first stage, and what is in them; on a CPU some at a time, each on one thread.

        Args:
            work: is given some of them.
            held: bytes that would be held for all of them at once.
        """
        roots = len(self.places[0])
        some = roots if self.cells.device.type != "cpu" else HELD * roots // max(held, 1) + 1
        each_alone(work, [slice(start, min(start + some, roots)) for start in range(0, roots, some)])


nesting = lru_cache(maxsize=8)(Nesting)


def by_cell(values: Tensor, cells: int) -> Tensor:
    """Of each of the `cells` in a root, what those in it have: [roots cells, B, D] from [roots, B, cells D]."""
    return values if cells == 1 else values.unflatten(2, (cells, -1)).transpose(1, 2).flatten(0, 1)


class NestedMoments:
    """Mean and scatter of each stage's vectors, by deviations from the mean as in `Moments`, of images that stream by.

    They are the same bits on any number of threads. An image costs as many operations as there are numbers.

    Attributes:
        count: images.
        means: of each stage, its own [n, d].
        scatters: of each stage, the last rows of the sums of outer products of deviations, by blocks.

    Args:
        nested: the cells.
        dimensions: d of each stage.
        dtype: of the sums.
        device: where they are kept.
    """

    def __init__(
        self, nested: Nesting, dimensions: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.count, self.nested = 0, nested
        self.means: list[Tensor] = []
        self.scatters: list[list[Tensor]] = []
        for stage, (cells, own) in enumerate(zip(nested.counts(), dimensions, strict=True)):
            self.means.append(torch.zeros(cells, own, dtype=dtype, device=device))
            so_far = dimensions[: stage + 1]
            self.scatters.append([torch.zeros(cells, own, d, dtype=dtype, device=device) for d in so_far])
        self._blocks = Blocks(self._take_in)

    def update(self, flat: Tensor) -> None:
        """Takes in N images as `Nesting.flat` gives them."""
        self._blocks.add(flat)

    def state(self) -> dict[str, Any]:
        """All that `restore` goes on from, to the same bits."""
        return {"count": self.count, "waiting": self._blocks.waiting().clone(), "sums": self._sums()}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes what `state` of moments of the same size has given."""
        self.count = state["count"]
        self._blocks.add(state["waiting"].to(self.means[0].device))
        for own, kept in zip(self._sums(), state["sums"], strict=True):
            own.copy_(kept)

    def finish(self) -> Self:
        """Takes in what still waits, and merges the processes: all of them have the same moments then."""
        self._blocks.finish()
        if world_size() > 1:
            counts = torch.tensor(self.count, device=self.means[0].device)
            dist.all_reduce(counts)
            total, before = int(counts), self.means
            self.means = [mean * (self.count / total) for mean in before]
            for mean in self.means:
                dist.all_reduce(mean)
            moved = [(old - new) * self.count**0.5 for old, new in zip(before, self.means, strict=True)]
            roots = slice(0, len(moved[0]))
            self._add(roots, [shift.view(roots.stop, 1, -1) for shift in moved])
            for sums in self._sums()[len(self.means) :]:
                dist.all_reduce(sums)
            self.count = total
        return self

    def _sums(self) -> list[Tensor]:
        return [*self.means, *(block for blocks in self.scatters for block in blocks)]

    def _take_in(self, images: Tensor) -> None:
        new, dimensions = len(images), [mean.shape[1] for mean in self.means]

        def take(roots: slice) -> None:
            deviations = []
            for stage, vectors in enumerate(self.nested.own(images, dimensions, roots)):
                before = self.means[stage][self.nested.part(stage, roots)].view(len(vectors), -1)
                mean = before.lerp(vectors.mean(1, dtype=before.dtype), new / (self.count + new))
                moved = mean.new_empty(len(mean), new + 1, mean.shape[1])
                torch.sub(vectors, mean[:, None], out=moved[:, :new])
                moved[:, new] = (before - mean) * self.count**0.5  # together, what was there is one more image
                before.copy_(mean)
                deviations.append(moved)
            self._add(roots, deviations)

        self.nested.for_roots(take, 3 * self.means[0].itemsize * new * images.shape[1])
        self.count += new

    def _add(self, roots: slice, deviations: Sequence[Tensor]) -> None:
        """Adds deviations [roots, N, k d] of each stage from the means."""
        for level, others in enumerate(deviations):
            inside = len(self.nested.places[level]) // len(self.nested.places[0])
            others = by_cell(others, inside)
            for stage in range(level, len(deviations)):
                sums = self.scatters[stage][level][self.nested.part(stage, roots)]
                own = others if stage == level else by_cell(deviations[stage], inside)
                sums.view(len(others), -1, others.shape[2]).baddbmm_(own.mT, others)
