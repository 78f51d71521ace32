"""Mean and scatter of vectors that stream by: images come and go, their moments stay."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_ad.statistics.distributed import world_size

BLOCK = 64  # images taken in together: an update costs one pass over the scatter, however many they are


class Blocks:
    """Images that come in batches of any size are taken in `BLOCK` at a time: which come together makes no difference.

    Args:
        take_in: what is done with each block [N, ...] of images; it keeps none of them.
    """

    def __init__(self, take_in: Callable[[Tensor], None]) -> None:
        self._take_in = take_in
        self._room, self._count = torch.empty(0), 0  # room is made once: pages of memory that are new cost time

    def add(self, images: Tensor) -> None:
        """Images [N, ...]."""
        if not len(self._room) and len(images):
            self._room = images.new_empty(BLOCK, *images.shape[1:])
        while len(images):
            part = images[: BLOCK - self._count]
            self._room[self._count : self._count + len(part)] = part
            self._count, images = self._count + len(part), images[len(part) :]
            if self._count == BLOCK:
                self.finish()

    def finish(self) -> None:
        """Takes in those that still wait."""
        waiting, self._count = self.waiting(), 0
        if len(waiting):
            self._take_in(waiting)

    def waiting(self) -> Tensor:
        """Those that still wait, [N, ...]."""
        return self._room[: self._count]


class Moments:
    """Mean and scatter at P positions, each a set of vectors of its own (P = 1: a single set).

    Images are taken in by blocks, and two sets are merged as Chan, Golub & LeVeque (1983) do, by deviations
    from means: there is no cancellation, in float32 neither. Memory is the scatter and a block of images, however
    many images come. An image costs O(P D^2) in time. To go on from earlier moments, set `count`, `mean` and
    `scatter`.

    Attributes:
        count: vectors at each position.
        mean: [P, D].
        scatter: sums of the outer products of deviations from the mean, [P, D, D].

    Args:
        positions: P.
        dimension: D.
        dtype: of the sums.
        device: where they are kept.
    """

    _more: tuple[str, ...] = ()  # further sums

    def __init__(
        self,
        positions: int,
        dimension: int,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.count = 0
        self.mean = torch.zeros(positions, dimension, dtype=dtype, device=device)
        self.scatter = torch.zeros(positions, dimension, dimension, dtype=dtype, device=device)
        self._blocks = Blocks(self._take_in)

    def update(self, vectors: Tensor) -> None:
        """Takes in the vectors [N, P, D] of N images; which come together makes no difference."""
        self._blocks.add(vectors)

    def merge(self, other: Self) -> None:
        """Adds the moments of other vectors, all of them finished; `other` is used up."""
        total = self.count + other.count
        if not total:
            return
        mean = self.mean.lerp(other.mean, other.count / total)
        for own, moved in zip(self._moved_to(mean), other._moved_to(mean), strict=True):
            own += moved
        self.count = total

    def state(self) -> dict[str, Any]:
        """All that `restore` goes on from, to the same bits."""
        names = ["mean", "scatter", *self._more]
        return {"count": self.count, "waiting": self._blocks.waiting().clone(), **{n: getattr(self, n) for n in names}}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes what `state` of moments of the same size has given."""
        self.count = state["count"]
        self._blocks.add(state["waiting"].to(self.mean.device))
        for name in ("mean", "scatter", *self._more):
            getattr(self, name).copy_(state[name])

    def finish(self) -> Self:
        """Takes in what still waits, and merges the processes: all of them have the same moments then."""
        self._blocks.finish()
        if world_size() > 1:
            counts = torch.tensor(self.count, device=self.mean.device)
            dist.all_reduce(counts)
            total = int(counts)
            mean = self.mean * (self.count / total)
            dist.all_reduce(mean)
            for sums in self._moved_to(mean):
                dist.all_reduce(sums)
            self.count = total
        return self

    def _take_in(self, vectors: Tensor) -> None:
        new = len(vectors)
        mean = self.mean.lerp(vectors.mean(0, dtype=self.mean.dtype), new / (self.count + new))
        deviations = mean.new_empty(new + 1, *mean.shape)
        torch.sub(vectors, mean, out=deviations[:new])
        self._combine(mean, deviations)
        self.count += new

    def _moved_to(self, mean: Tensor) -> list[Tensor]:
        """The sums, of deviations from another mean."""
        self._combine(mean, torch.empty_like(mean)[None])
        return self._sums()

    def _sums(self) -> list[Tensor]:
        return [self.scatter]

    def _combine(self, mean: Tensor, deviations: Tensor) -> None:
        """Moves to a new mean, and adds deviations [N + 1, P, D] from it; the last one is overwritten."""
        deviations[-1] = (self.mean - mean) * self.count**0.5  # together, what was there is one more vector
        self.scatter.baddbmm_(deviations.permute(1, 2, 0), deviations.transpose(0, 1))
        self.mean = mean


class NormMoments(Moments):
    """Moments in float64, with what Ledoit and Wolf's shrinkage needs: the fourth powers of the deviations' norms.

    Attributes:
        third: sums of |d|^2 d over the deviations d from the mean, [P, D]; the fourth ones are merged by it.
        fourth: sums of |d|^4, [P].
    """

    _more = ("third", "fourth")

    def __init__(self, positions: int, dimension: int, device: torch.device | str = "cpu") -> None:
        super().__init__(positions, dimension, torch.float64, device)
        self.third, self.fourth = torch.zeros_like(self.mean), torch.zeros_like(self.mean[:, 0])

    def _sums(self) -> list[Tensor]:
        return [self.scatter, self.third, self.fourth]

    def _combine(self, mean: Tensor, deviations: Tensor) -> None:
        shift, new = self.mean - mean, deviations[:-1]
        norm, trace = shift.square().sum(1), self.scatter.diagonal(dim1=1, dim2=2).sum(1)
        product = (self.scatter @ shift[..., None])[..., 0]
        # |d + s|^4 and |d + s|^2 (d + s), summed over deviations d whose sum is 0
        self.fourth += 4 * ((self.third + product) * shift).sum(1) + (self.count * norm + 2 * trace) * norm
        self.third += (trace + self.count * norm)[:, None] * shift + 2 * product
        squares = new.square().sum(2)
        self.fourth += squares.square().sum(0)
        self.third += (squares[..., None] * new).sum(0)
        super()._combine(mean, deviations)
