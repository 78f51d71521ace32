"""A Gaussian at each position of a `GridHierarchy`: coarse cells are kept and computed once.

Matrices are handled by block rows, level after level: for some cells of a level, `mixed`
[cells, d, D - d], the columns of the coarser levels' dimensions, and `own` [cells, d, d].
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.statistics.gaussian import whitening
from lightning_ad.statistics.grid_hierarchy import GridHierarchy, regroup_by_cell
from lightning_ad.statistics.hierarchical_moments import HierarchicalMoments

BlockRows = list[list[Tensor]]  # for each level the blocks of its block row, see `GridHierarchy`


class HierarchicalGaussian:
    """A Gaussian of the vectors at each position.

    Args:
        hierarchy: the cells.
        means: of all levels, one after another, float32 [sum of n d].
        factors: the block rows of the covariances' Cholesky factors, block after block,
            [sum of n d D].
        epsilon: what was added to the variances.
        dtype: in which factors are inverted and covariances computed.
    """

    def __init__(
        self,
        hierarchy: GridHierarchy,
        means: Tensor,
        factors: Tensor,
        epsilon: float,
        dtype: torch.dtype,
    ) -> None:
        self.hierarchy = hierarchy
        self.epsilon = epsilon
        self.dtype = dtype
        self.means = []
        level_means = means.split(hierarchy.vector_sizes())
        for mean, dimension in zip(level_means, hierarchy.dimensions, strict=True):
            self.means.append(mean.view(-1, dimension))
        self.factors = _block_rows(hierarchy, factors)
        self._inverse_factors: tuple[float, BlockRows] | None = None

    def fill(self, moments: HierarchicalMoments, count: int) -> None:
        """Fills empty moments with those of the `count` images that this Gaussian was fitted to."""
        moments.count = count
        for mean, own in zip(moments.means, self.means, strict=True):
            mean.copy_(own)

        def multiply(coarse: slice) -> None:
            wholes = _WholeMatrices()
            for level, blocks in enumerate(self.factors):
                cells = self.hierarchy.cell_range(level, coarse)
                mixed, own = _multiply(wholes, *_read_block_row(blocks, cells, self.dtype))
                mixed = mixed * (count - 1)
                own = _add_variance(own, -self.epsilon) * (count - 1)
                _write_block_row(moments.scatters[level], cells, mixed, own)

        self.hierarchy.for_each_block(multiply, _work_bytes(self.hierarchy, self.dtype))

    def squared(self, flat: Tensor, scale: float = 1.0) -> Tensor:
        """Returns the squared Mahalanobis distances of images at each position.

        Args:
            flat: [B, sum of n d], as `GridHierarchy.flatten` returns it.
            scale: multiplies the covariances, but not epsilon.

        Returns:
            float32 [B, P].
        """
        last = len(self.means) - 1
        squared = flat.new_empty(len(self.means[last]), len(flat))
        inverses = self.inverse_factors(scale)

        def measure(coarse: slice) -> None:
            deviations = self._deviations(flat, coarse)
            total = squared.new_zeros(len(deviations[0]), len(flat), 1)
            for level, blocks in enumerate(inverses):
                found = self._own_distances(level, blocks, deviations, coarse)
                contained = found.shape[2] // total.shape[2]
                total = found + total.repeat_interleave(contained, 2)
            cells = self.hierarchy.cell_range(last, coarse)
            squared[cells] = total.transpose(1, 2).flatten(0, 1)

        self.hierarchy.for_each_block(measure, 3 * flat.nbytes)
        return squared[self.hierarchy.cells].T

    def inverse_factors(self, scale: float = 1.0) -> BlockRows:
        """Returns the inverses of the factors in float32; those of the last `scale` are kept.

        Each block is transposed, and those of the cells in one coarser cell stand side by side:
        [n', d', k d], if n' cells of an earlier level contain k cells of the level each.
        """
        if self._inverse_factors is not None and self._inverse_factors[0] == scale:
            return self._inverse_factors[1]
        self._inverse_factors = None  # frees the room before the others take it

        def invert(coarse: slice) -> None:
            wholes = _WholeMatrices()
            factors = self._factors_in(coarse)
            if scale != 1:
                factors = self._scaled_factors_in(coarse, scale)
            for level, (mixed, own) in enumerate(factors):
                block_row = _invert(wholes, mixed, own)
                self._write_transposed(made[level], level, coarse, *block_row)

        # They stay, and may be used with gradients later.
        with torch.inference_mode(False), torch.no_grad():
            made = self._empty_inverses()
            self.hierarchy.for_each_block(invert, _work_bytes(self.hierarchy, self.dtype))
        self._inverse_factors = (scale, made)
        return made

    def _deviations(self, flat: Tensor, coarse: slice) -> list[Tensor]:
        """Returns each level's deviations from the mean, [coarse cells, B, k d]."""
        deviations = []
        for level, vectors in enumerate(self.hierarchy.vectors_in(flat, coarse)):
            mean = self.means[level][self.hierarchy.cell_range(level, coarse)]
            deviations.append(vectors - mean.view(len(vectors), 1, -1))
        return deviations

    def _own_distances(
        self, level: int, blocks: list[Tensor], deviations: list[Tensor], coarse: slice
    ) -> Tensor:
        """Returns what a level adds to the squared distances of its cells, [coarse cells, B, k]."""
        white = torch.zeros_like(deviations[level])
        for column, block in enumerate(blocks):
            cells = self.hierarchy.cells_per_coarse_cell(column)
            factor = block[self.hierarchy.cell_range(column, coarse)]
            part = regroup_by_cell(deviations[column], cells) @ factor
            by_coarse_cell = part.unflatten(0, (-1, cells))
            white += by_coarse_cell.transpose(1, 2).flatten(2)
        dimension = self.hierarchy.dimensions[level]
        squares = white.square_().unflatten(2, (-1, dimension))
        return squares.sum(3)

    def _factors_in(self, coarse: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the block rows of the factors of some coarse cells."""
        for level, blocks in enumerate(self.factors):
            cells = self.hierarchy.cell_range(level, coarse)
            yield _read_block_row(blocks, cells, self.dtype)

    def _scaled_factors_in(self, coarse: slice, scale: float) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the block rows of the factors if the covariances, but not epsilon, were scaled."""
        covariances = _WholeMatrices()
        factors = _WholeMatrices()
        for mixed, own in self._factors_in(coarse):
            mixed, own = _multiply(covariances, mixed, own)
            own = _add_variance(own * scale, (1 - scale) * self.epsilon)
            yield _factorise(factors, mixed * scale, own)

    def _write_transposed(
        self, target: list[Tensor], level: int, coarse: slice, mixed: Tensor, own: Tensor
    ) -> None:
        """Writes a block row of some coarse cells as `inverse_factors` returns it."""
        blocks = _split_columns(self.factors[level], mixed, own)
        for column, values in enumerate(blocks):
            cells = self.hierarchy.cell_range(column, coarse)
            part = target[column][cells]
            grouped = values.reshape(len(part), -1, part.shape[1])
            part.copy_(grouped.mT)

    def _empty_inverses(self) -> BlockRows:
        """Allocates what `inverse_factors` returns."""
        counts = self.hierarchy.cell_counts()
        inverses = []
        for blocks in self.factors:
            block_row = []
            for column, block in enumerate(blocks):
                cells = counts[column]
                contained = len(block) // cells
                shape = (cells, block.shape[2], contained * block.shape[1])
                block_row.append(block.new_empty(shape, dtype=torch.float32))
            inverses.append(block_row)
        return inverses


def fit_gaussian(
    moments: HierarchicalMoments, epsilon: float, storage: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Returns the means and factors of a `HierarchicalGaussian` of finished moments.

    The moments' scatters are overwritten with the factors.

    Raises:
        torch.linalg.LinAlgError: if a covariance is not positive definite.
    """
    hierarchy = moments.hierarchy
    accumulator = moments.means[0]
    scale = 1 / (moments.count - 1)

    def factorise(coarse: slice) -> None:
        wholes = _WholeMatrices()
        for level, blocks in enumerate(moments.scatters):
            cells = hierarchy.cell_range(level, coarse)
            mixed, own = _read_block_row(blocks, cells)
            own = _add_variance(own * scale, epsilon)
            _write_block_row(blocks, cells, *_factorise(wholes, mixed * scale, own))

    hierarchy.for_each_block(factorise, _work_bytes(hierarchy, accumulator.dtype))
    size = sum(hierarchy.matrix_sizes())
    factors = torch.empty(size, dtype=storage, device=accumulator.device)
    block_rows = _block_rows(hierarchy, factors)
    for stored, made in zip(block_rows, moments.scatters, strict=True):
        for block, values in zip(stored, made, strict=True):
            block.copy_(values)
    means = torch.cat([mean.flatten() for mean in moments.means])
    return means.float(), factors


class _WholeMatrices:
    """The whole triangular matrices [n, D, D] of a level's cells, made of the block rows so far.

    They are made only when the next level asks for them: those of the last level are the largest.
    """

    def __init__(self) -> None:
        self._whole: Tensor | None = None
        self._block_row: tuple[Tensor, Tensor] | None = None

    def add(self, mixed: Tensor, own: Tensor) -> None:
        """Adds the block row of the next level."""
        self._block_row = (mixed, own)

    def get(self) -> Tensor | None:
        """Returns the matrices of the levels so far; None before the first."""
        if self._block_row is not None:
            self._whole = self._extended(*self._block_row)
            self._block_row = None
        return self._whole

    def _extended(self, mixed: Tensor, own: Tensor) -> Tensor:
        rows = torch.cat([mixed, own], 2)
        if self._whole is None:
            return rows
        upper = F.pad(self._whole, (0, own.shape[2]))
        contained = len(own) // len(self._whole)
        return torch.cat([upper.repeat_interleave(contained, 0), rows], 1)


def _factorise(factors: _WholeMatrices, mixed: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a block row of the Cholesky factors, from that of the covariances."""
    coarser = factors.get()
    if coarser is not None:
        grouped = _grouped(mixed, coarser)
        solved = torch.linalg.solve_triangular(coarser, grouped.mT, upper=False)
        mixed = solved.mT.reshape(mixed.shape)
        own = own - mixed @ mixed.mT
    own = torch.linalg.cholesky(own)
    factors.add(mixed, own)
    return mixed, own


def _multiply(factors: _WholeMatrices, mixed: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a block row of the covariances, from that of the Cholesky factors."""
    coarser = factors.get()
    factors.add(mixed, own)
    covariance = mixed
    if coarser is not None:
        grouped = _grouped(mixed, coarser) @ coarser.mT
        covariance = grouped.view_as(mixed)
    return covariance, mixed @ mixed.mT + own @ own.mT


def _invert(inverses: _WholeMatrices, mixed: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a block row of the inverses, from that of the Cholesky factors."""
    own = whitening(own)
    coarser = inverses.get()
    if coarser is not None:
        grouped = _grouped(mixed, coarser) @ coarser
        mixed = -(own @ grouped.view_as(mixed))
    inverses.add(mixed, own)
    return mixed, own


def _block_rows(hierarchy: GridHierarchy, flat: Tensor) -> BlockRows:
    """Returns views of numbers that are stored block after block."""
    block_rows = []
    start = 0
    for level, cells in enumerate(hierarchy.cell_counts()):
        own = hierarchy.dimensions[level]
        block_row = []
        for d in hierarchy.dimensions[: level + 1]:
            stop = start + cells * own * d
            block = flat[start:stop]
            block_row.append(block.view(cells, own, d))
            start = stop
        block_rows.append(block_row)
    return block_rows


def _read_block_row(
    blocks: Sequence[Tensor], cells: slice, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the block row of some cells of a level."""
    if dtype is None:
        dtype = blocks[0].dtype
    *coarser, own = (block[cells].to(dtype) for block in blocks)
    if not coarser:
        return own[:, :, :0], own
    return torch.cat(coarser, 2), own


def _write_block_row(blocks: Sequence[Tensor], cells: slice, mixed: Tensor, own: Tensor) -> None:
    columns = _split_columns(blocks, mixed, own)
    for block, values in zip(blocks, columns, strict=True):
        block[cells] = values


def _split_columns(blocks: Sequence[Tensor], mixed: Tensor, own: Tensor) -> list[Tensor]:
    """Splits a block row into its blocks."""
    widths = [block.shape[2] for block in blocks[:-1]]
    return [*mixed.split(widths, 2), own]


def _add_variance(own: Tensor, added: float) -> Tensor:
    own.diagonal(dim1=1, dim2=2).add_(added)
    return own


def _grouped(mixed: Tensor, coarser: Tensor) -> Tensor:
    """Stacks the rows of the k cells in each coarser cell: [n, k d, D - d] from [n k, d, D - d]."""
    return mixed.view(len(coarser), -1, coarser.shape[2])


def _work_bytes(hierarchy: GridHierarchy, dtype: torch.dtype) -> int:
    """Returns the bytes of the last level's block rows and the coarser levels' whole matrices."""
    numbers = hierarchy.matrix_sizes()[-1]
    for level, cells in enumerate(hierarchy.cell_counts()[:-1]):
        numbers += cells * sum(hierarchy.dimensions[: level + 1]) ** 2
    return 2 * dtype.itemsize * numbers
