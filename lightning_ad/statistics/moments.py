"""Mean and scatter of vectors that stream by: images come and go, their moments stay."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_ad.statistics.grid_hierarchy import Nesting, by_cell, nesting
from lightning_ad.system.distributed import world_size

BLOCK = (
    64  # images taken in together: an update costs one pass over the scatter, however many they are
)


class Blocks:
    """Images of batches of any size are taken in `BLOCK` at a time: which come together makes no difference."""

    def __init__(self) -> None:
        self._room, self._count = (
            torch.empty(0),
            0,
        )  # room is made once: pages of memory that are new cost time

    def add(self, images: Tensor, take_in: Callable[[Tensor], None]) -> None:
        """Images [N, ...]; `take_in` is given each full block of them, and keeps none."""
        if not len(self._room) and len(images):
            self._room = images.new_empty(BLOCK, *images.shape[1:])
        while len(images):
            part = images[: BLOCK - self._count]
            self._room[self._count : self._count + len(part)] = part
            self._count, images = self._count + len(part), images[len(part) :]
            if self._count == BLOCK:
                self._count = 0
                take_in(self._room)

    def finish(self, take_in: Callable[[Tensor], None]) -> None:
        """Takes in those that still wait, and gives the room back."""
        if self._count:
            take_in(self.waiting())
        self._room, self._count = torch.empty(0), 0

    def waiting(self) -> Tensor:
        """Those that still wait, [N, ...]."""
        return self._room[: self._count]


class Moments:
    """Mean and scatter of each stage's vectors (`statistics.nesting`), of images that stream by.

    Images are taken in by blocks, and two sets are merged as Chan, Golub & LeVeque (1983) do, by deviations from
    means: there is no cancellation, in float32 neither. They are the same bits on any number of threads. Memory is the
    scatters and a block of images, however many images come; an image costs as many operations as there are numbers.
    To go on from earlier moments, set `count` and fill `means` and `scatters`.

    Attributes:
        count: images.
        means: of each stage, its own [n, d].
        scatters: of each stage, the last rows of the sums of outer products of deviations, by blocks.

    Args:
        nested: the cells; on its device the sums are kept.
        dtype: of the sums.
    """

    def __init__(self, nested: Nesting, dtype: torch.dtype) -> None:
        self.count, self.nested, device = 0, nested, nested.cells.device
        self.means: list[Tensor] = []
        self.scatters: list[list[Tensor]] = []
        for stage, (cells, own) in enumerate(zip(nested.counts(), nested.dimensions, strict=True)):
            self.means.append(torch.zeros(cells, own, dtype=dtype, device=device))
            so_far = nested.dimensions[: stage + 1]
            self.scatters.append(
                [torch.zeros(cells, own, d, dtype=dtype, device=device) for d in so_far]
            )
        self._blocks = Blocks()  # told each time what to do: who holds itself is not freed at once

    def update(self, flat: Tensor) -> None:
        """Takes in N images as `Nesting.flat` gives them; which come together makes no difference."""
        self._blocks.add(flat, self._take_in)

    def state(self) -> dict[str, Any]:
        """All that `restore` goes on from, to the same bits."""
        return {
            "count": self.count,
            "waiting": self._blocks.waiting().clone(),
            "sums": [*self.means, *self._sums()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes what `state` of moments of the same size has given."""
        self.count = state["count"]
        for own, kept in zip([*self.means, *self._sums()], state["sums"], strict=True):
            own.copy_(kept)
        self.update(state["waiting"].to(self.means[0].device))

    def finish(self) -> Self:
        """Takes in what still waits, and merges the processes: all of them have the same moments then."""
        self._blocks.finish(self._take_in)
        if world_size() > 1:
            counts = torch.tensor(self.count, device=self.means[0].device)
            dist.all_reduce(counts)
            total, before = int(counts), self.means
            self.means = [mean * (self.count / total) for mean in before]
            for mean in self.means:
                dist.all_reduce(mean)
            moved = [
                (old - new) * self.count**0.5 for old, new in zip(before, self.means, strict=True)
            ]
            roots = slice(0, len(moved[0]))
            self._add(roots, [shift.view(roots.stop, 1, -1) for shift in moved])
            for sums in self._sums():
                dist.all_reduce(sums)
            self.count = total
        return self

    def _sums(self) -> list[Tensor]:
        return [block for blocks in self.scatters for block in blocks]

    def _take_in(self, images: Tensor) -> None:
        new = len(images)

        def take(roots: slice) -> None:
            deviations = []
            for stage, vectors in enumerate(self.nested.own(images, roots)):
                before = self.means[stage][self.nested.part(stage, roots)].view(len(vectors), -1)
                moved = before.new_empty(len(before), new + 1, before.shape[1])
                moved[:, :new] = vectors
                mean = before.lerp(moved[:, :new].mean(1), new / (self.count + new))
                moved[:, :new] -= mean[:, None]
                moved[:, new] = (
                    before - mean
                ) * self.count**0.5  # together, what was there is one more image
                before.copy_(mean)
                deviations.append(moved)
            self._add(roots, deviations)

        self.nested.for_roots(take, 3 * self.means[0].itemsize * new * images.shape[1])
        self.count += new

    def _add(self, roots: slice, deviations: Sequence[Tensor]) -> None:
        """Adds deviations [roots, N + 1, k d] of each stage from the new means; the last stand for what was there."""
        for level, coarse in enumerate(deviations):
            inside = self.nested.inside(level)
            coarse = by_cell(coarse, inside)
            for stage in range(level, len(deviations)):
                sums = self.scatters[stage][level][self.nested.part(stage, roots)]
                own = coarse if stage == level else by_cell(deviations[stage], inside)
                sums.view(len(coarse), -1, coarse.shape[2]).baddbmm_(own.mT, coarse)


class NormMoments(Moments):
    """Moments in float64 of vectors, one an image, with what Ledoit and Wolf's shrinkage needs: fourth powers of norms.

    Attributes:
        third: sum of |d|^2 d over the deviations d from the mean, [D]; the fourth powers are merged by it.
        fourth: sum of |d|^4, [1].
    """

    def __init__(self, dimension: int, device: torch.device | str = "cpu") -> None:
        super().__init__(
            nesting(((1, 1),), (dimension,), (1, 1), torch.device(device)), torch.float64
        )
        self.third = self.means[0].new_zeros(dimension)
        self.fourth = self.means[0].new_zeros(1)

    @property
    def mean(self) -> Tensor:
        """[D]."""
        return self.means[0][0]

    @property
    def scatter(self) -> Tensor:
        """The sum of outer products of deviations from the mean, [D, D]."""
        return self.scatters[0][0][0]

    def _sums(self) -> list[Tensor]:
        return [*super()._sums(), self.third, self.fourth]

    def _add(self, roots: slice, deviations: Sequence[Tensor]) -> None:
        new, before = deviations[0][0].tensor_split([-1])
        shift = before[0] / max(self.count, 1) ** 0.5
        norm, trace, product = shift @ shift, self.scatter.trace(), self.scatter @ shift
        # |d + s|^4 and |d + s|^2 (d + s), summed over deviations d whose sum is 0
        self.fourth += 4 * (self.third + product) @ shift + (self.count * norm + 2 * trace) * norm
        self.third += (trace + self.count * norm) * shift + 2 * product
        squares = new.square().sum(1)
        self.fourth += squares.square().sum()
        self.third += squares @ new
        super()._add(roots, deviations)
