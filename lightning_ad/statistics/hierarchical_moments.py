"""Mean and scatter of the vectors of a `GridHierarchy`, kept once for each cell of each level."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_ad.statistics.grid_hierarchy import GridHierarchy, regroup_by_cell
from lightning_ad.statistics.moments import BlockwiseMoments
from lightning_ad.system.distributed import sum_over_processes


class HierarchicalMoments(BlockwiseMoments):
    """Mean and scatter of the vectors at each level, of images that arrive batch by batch.

    Images are given as `GridHierarchy.flatten` returns them, and taken in by blocks. Two sets of
    images are merged by the deviations from their means (Chan, Golub & LeVeque 1983), so that
    nothing cancels, not even in float32. The bits are the same on any number of threads. Memory is
    the scatters and one block of images, however many images arrive; an image costs as many
    operations as there are numbers. To continue from earlier moments, set `count` and fill `means`
    and `scatters`.

    Attributes:
        count: number of images.
        means: for each level, [n, d].
        scatters: for each level, the block row of the sum of outer products of deviations: one
            tensor [n, d, d'] for each level up to it.

    Args:
        hierarchy: the cells; the sums are kept on its device.
        dtype: of the sums.
    """

    def __init__(self, hierarchy: GridHierarchy, dtype: torch.dtype) -> None:
        super().__init__()
        self.hierarchy = hierarchy
        self.means: list[Tensor] = []
        self.scatters: list[list[Tensor]] = []
        nothing = torch.empty(0, dtype=dtype, device=hierarchy.cells.device)
        for level, cells in enumerate(hierarchy.cell_counts()):
            own = hierarchy.dimensions[level]
            so_far = hierarchy.dimensions[: level + 1]
            self.means.append(nothing.new_zeros(cells, own))
            self.scatters.append([nothing.new_zeros(cells, own, d) for d in so_far])

    def _sums(self) -> list[Tensor]:
        return [*self.means, *self._blocks()]

    def _blocks(self) -> list[Tensor]:
        return [block for block_row in self.scatters for block in block_row]

    def _merge_processes(self) -> None:
        total = sum_over_processes(self.count, self.means[0].device)
        coarse = slice(0, len(self.means[0]))
        shifts = []
        for level, before in enumerate(self.means):
            mean = before * (self.count / total)
            dist.all_reduce(mean)
            shift = (before - mean) * self.count**0.5
            self.means[level] = mean
            shifts.append(shift.view(coarse.stop, 1, -1))
        self._add(coarse, shifts)
        for block in self._blocks():
            dist.all_reduce(block)
        self.count = total

    def _take_in(self, images: Tensor) -> None:
        vector_bytes = self.means[0].itemsize * images.numel()
        self.hierarchy.for_each_block(partial(self._take_in_block, images), 3 * vector_bytes)
        self.count += len(images)

    def _take_in_block(self, images: Tensor, coarse: slice) -> None:
        """Takes in what the images have in some coarse cells."""
        new = len(images)
        deviations = []
        for level, vectors in enumerate(self.hierarchy.vectors_in(images, coarse)):
            cells = self.hierarchy.cell_range(level, coarse)
            before = self.means[level][cells].view(len(vectors), -1)
            moved = before.new_empty(len(before), new + 1, before.shape[1])
            moved[:, :new] = vectors
            new_mean = moved[:, :new].mean(1)
            mean = before.lerp(new_mean, new / (self.count + new))
            moved[:, :new] -= mean[:, None]
            # All earlier images together count as one more.
            moved[:, new] = (before - mean) * self.count**0.5
            before.copy_(mean)
            deviations.append(moved)
        self._add(coarse, deviations)

    def _add(self, coarse: slice, deviations: Sequence[Tensor]) -> None:
        """Adds deviations from the new means to the scatters of some coarse cells.

        Args:
            coarse: which coarse cells.
            deviations: for each level, [coarse cells, N + 1, k * d]; the last of the N + 1 stands
                for the earlier images.
        """
        for column, coarser in enumerate(deviations):
            cells = self.hierarchy.cells_per_coarse_cell(column)
            coarser = regroup_by_cell(coarser, cells)
            for level in range(column, len(deviations)):
                own = coarser
                if level > column:
                    own = regroup_by_cell(deviations[level], cells)
                block_cells = self.hierarchy.cell_range(level, coarse)
                block = self.scatters[level][column][block_cells]
                sums = block.view(len(coarser), -1, coarser.shape[2])
                sums.baddbmm_(own.mT, coarser)
