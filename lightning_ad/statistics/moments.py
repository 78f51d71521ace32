"""Mean and scatter of vectors that arrive batch by batch and are not kept."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_ad.system.distributed import sum_over_processes, world_size
from lightning_ad.system.threads import one_thread

# Images taken in together: an update costs one pass over the scatter, however many they are.
BLOCK = 64


class BlockBuffer:
    """Collects images from batches of any size into blocks of `BLOCK`: batches do not matter.

    The buffer is allocated once, because fresh pages of memory cost time. What to do with a full
    block is passed to each call: an object that held a method of its owner would not be freed at
    once.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0)
        self._count = 0

    def add(self, images: Tensor, take_in: Callable[[Tensor], None]) -> None:
        """Adds images [N, ...]; `take_in` is called with each full block, and must not keep it."""
        if not len(self._buffer) and len(images):
            self._buffer = images.new_empty(BLOCK, *images.shape[1:])
        while len(images):
            part = images[: BLOCK - self._count]
            self._buffer[self._count : self._count + len(part)] = part
            self._count += len(part)
            images = images[len(part) :]
            if self._count == BLOCK:
                self._count = 0
                take_in(self._buffer)

    def finish(self, take_in: Callable[[Tensor], None]) -> None:
        """Takes in the images that still wait, and frees the buffer."""
        if self._count:
            take_in(self.waiting())
        self._buffer = torch.empty(0)
        self._count = 0

    def waiting(self) -> Tensor:
        """Returns the images that are not taken in yet, [N, ...]: a view."""
        return self._buffer[: self._count]


class BlockwiseMoments(ABC):
    """Moments of images that are taken in by blocks, saved, and merged over processes.

    Attributes:
        count: number of images.
    """

    def __init__(self) -> None:
        self.count = 0
        self._buffer = BlockBuffer()

    def update(self, images: Tensor) -> None:
        """Takes in images [N, ...]; how they are split into batches makes no difference."""
        self._buffer.add(images, self._take_in)

    def state(self) -> dict[str, Any]:
        """Returns all that `restore` needs to continue to the same bits."""
        return {
            "count": self.count,
            "waiting": self._buffer.waiting().clone(),
            "sums": self._sums(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from the `state` of moments of the same size."""
        self.count = state["count"]
        sums = self._sums()
        for own, saved in zip(sums, state["sums"], strict=True):
            own.copy_(saved)
        self.update(state["waiting"].to(sums[0].device))

    def finish(self) -> Self:
        """Takes in what still waits and merges all processes, which then have the same moments."""
        self._buffer.finish(self._take_in)
        if world_size() > 1:
            self._merge_processes()
        return self

    @abstractmethod
    def _sums(self) -> list[Tensor]:
        """Returns views of all tensors that are summed, as saved fits have them."""

    @abstractmethod
    def _take_in(self, images: Tensor) -> None: ...

    @abstractmethod
    def _merge_processes(self) -> None: ...


class Moments(BlockwiseMoments):
    """Moments in float64 of vectors, one an image, with those that Ledoit-Wolf shrinkage needs.

    Two sets of vectors are merged by the deviations from their means (Chan, Golub & LeVeque 1983),
    so that nothing cancels. `fill` continues from earlier moments.

    Attributes:
        count: number of vectors.
        mean: [D].
        scatter: sum of the outer products of deviations from the mean, [D, D].
        third: sum of |d|^2 d over the deviations d, [D]; needed to merge the fourth powers.
        fourth: sum of |d|^4, [1].
    """

    def __init__(self, dimension: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.mean = torch.zeros(dimension, dtype=torch.float64, device=device)
        self.scatter = self.mean.new_zeros(dimension, dimension)
        self.third = self.mean.new_zeros(dimension)
        self.fourth = self.mean.new_zeros(1)

    def fill(
        self, count: int, mean: Tensor, scatter: Tensor, third: Tensor, fourth: Tensor
    ) -> None:
        """Copies the moments of `count` vectors in place of its own."""
        self.count = count
        self.mean.copy_(mean)
        self.scatter.copy_(scatter)
        self.third.copy_(third)
        self.fourth.copy_(fourth)

    def _sums(self) -> list[Tensor]:
        return [self.mean[None], self.scatter[None], self.third, self.fourth]

    def _merge_processes(self) -> None:
        total = sum_over_processes(self.count, self.mean.device)
        before = self.mean
        self.mean = before * (self.count / total)
        dist.all_reduce(self.mean)
        moved = (before - self.mean) * self.count**0.5
        self._add(moved[None])
        for sums in (self.scatter, self.third, self.fourth):
            dist.all_reduce(sums)
        self.count = total

    def _take_in(self, vectors: Tensor) -> None:
        new = len(vectors)
        with one_thread():
            deviations = self.mean.new_empty(new + 1, len(self.mean))
            deviations[:new] = vectors
            new_mean = deviations[:new].mean(0)
            mean = self.mean.lerp(new_mean, new / (self.count + new))
            deviations[:new] -= mean
            # All earlier vectors together count as one more.
            deviations[new] = (self.mean - mean) * self.count**0.5
            self.mean.copy_(mean)
            self._add(deviations)
        self.count += new

    def _add(self, deviations: Tensor) -> None:
        """Adds deviations [N + 1, D] from the new mean; the last stands for the earlier vectors."""
        new, before = deviations.tensor_split([-1])
        shift = before[0] / max(self.count, 1) ** 0.5
        norm = shift @ shift
        trace = self.scatter.trace()
        product = self.scatter @ shift
        # The sums of |d + s|^4 and |d + s|^2 (d + s), over earlier deviations d that sum up to 0.
        weight = self.count * norm + 2 * trace
        self.fourth += 4 * (self.third + product) @ shift + weight * norm
        self.third += (trace + self.count * norm) * shift + 2 * product
        squares = new.square().sum(1)
        self.fourth += squares.square().sum()
        self.third += squares @ new
        self.scatter[None].baddbmm_(deviations.T[None], deviations[None])
