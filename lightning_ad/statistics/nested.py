"""Gaussians on grids that lie in one another (`statistics.nesting`): what is a coarse cell's is computed once.

Matrices [D, D] of the cells of each stage are given by blocks of their last rows, as there.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.statistics.nesting import Nesting, by_cell

Rows = Sequence[Sequence[Tensor]]  # of each stage, its blocks
Work = Callable[[int, slice, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def factorise(nested: Nesting, covariances: Rows) -> None:
    """Turns covariances into their Cholesky factors, in place.

    Raises:
        torch.linalg.LinAlgError: where a covariance is not positive definite.
    """

    def work(stage: int, roots: slice, mixed: Tensor, own: Tensor, above: Tensor | None) -> tuple[Tensor, Tensor]:
        if above is not None:
            solved = torch.linalg.solve_triangular(above, _grouped(mixed, above).mT, upper=False)
            mixed = solved.mT.reshape(mixed.shape)
            own = own - mixed @ mixed.mT
        own = torch.linalg.cholesky(own)
        for block, values in zip(covariances[stage], _columns(covariances[stage], mixed, own), strict=True):
            block[nested.part(stage, roots)] = values
        return mixed, own

    _downwards(nested, covariances, covariances[0][0].dtype, work)


def covariances_of(nested: Nesting, factors: Rows, dtype: torch.dtype) -> list[list[Tensor]]:
    """What `factorise` was given, from what it has made of it; computed in `dtype`."""
    made = [[torch.empty_like(block, dtype=dtype) for block in blocks] for blocks in factors]

    def work(stage: int, roots: slice, mixed: Tensor, own: Tensor, above: Tensor | None) -> tuple[Tensor, Tensor]:
        before = mixed if above is None else (_grouped(mixed, above) @ above.mT).view_as(mixed)
        for block, values in zip(
            made[stage], _columns(made[stage], before, mixed @ mixed.mT + own @ own.mT), strict=True
        ):
            block[nested.part(stage, roots)] = values
        return mixed, own

    _downwards(nested, factors, dtype, work)
    return made


def whitening_of(nested: Nesting, factors: Rows, dtype: torch.dtype) -> list[list[Tensor]]:
    """The inverses of Cholesky factors by triangular solves, computed in `dtype`, for `nested_squared_distances`.

    A product with them takes the place of a solve for each new vector, which libraries do many times slower.

    Returns:
        Of each stage its blocks, float32, transposed, those of the cells in a cell side by side: [n', d', k d], where
        n' cells of an earlier stage have k of its cells in them.
    """
    counts = nested.counts()
    made = [
        [block.new_empty(n, block.shape[2], len(block) // n * block.shape[1], dtype=torch.float32)
         for n, block in zip(counts, blocks, strict=False)]
        for blocks in factors
    ]  # fmt: skip

    def work(stage: int, roots: slice, mixed: Tensor, own: Tensor, above: Tensor | None) -> tuple[Tensor, Tensor]:
        identity = torch.eye(own.shape[1], dtype=dtype, device=own.device).expand_as(own)
        inverse = torch.linalg.solve_triangular(own, identity, upper=False)
        if above is not None:
            mixed = -(inverse @ (_grouped(mixed, above) @ above).view_as(mixed))
        for level, values in enumerate(_columns(factors[stage], mixed, inverse)):
            part = made[stage][level][nested.part(level, roots)]
            part.copy_(values.reshape(len(part), -1, part.shape[1]).mT)
        return mixed, inverse

    _downwards(nested, factors, dtype, work)
    return made


def nested_squared_distances(nested: Nesting, flat: Tensor, means: Sequence[Tensor], whitening: Rows) -> Tensor:
    """Squared Mahalanobis distances [B, P] of images, as `Nesting.flat` gives them, from means [n, d] of each stage."""
    images, counts, dimensions = len(flat), nested.counts(), [mean.shape[1] for mean in means]
    squared = flat.new_empty(counts[-1], images)

    def work(roots: slice) -> None:
        deviations = [
            vectors - means[stage][nested.part(stage, roots)].view(len(vectors), 1, -1)
            for stage, vectors in enumerate(nested.own(flat, dimensions, roots))
        ]
        total = squared.new_zeros(len(deviations[0]), images, 1)
        for own, blocks in zip(deviations, whitening, strict=True):
            white = torch.zeros_like(own)
            for level, block in enumerate(blocks):
                inside = counts[level] // counts[0]
                part = by_cell(deviations[level], inside) @ block[nested.part(level, roots)]
                white += part.unflatten(0, (-1, inside)).transpose(1, 2).flatten(2)
            found = white.square_().unflatten(2, (-1, dimensions[len(blocks) - 1])).sum(3)
            total = found + total.repeat_interleave(found.shape[2] // total.shape[2], 2)
        squared[nested.part(len(means) - 1, roots)] = total.transpose(1, 2).flatten(0, 1)

    nested.for_roots(work, 3 * flat.nbytes)
    return squared[nested.cells].T


def _downwards(nested: Nesting, rows: Rows, dtype: torch.dtype, work: Work) -> None:
    """Goes through the stages of all cells, some at a time.

    Args:
        nested: the cells.
        rows: whose blocks are given to `work`.
        dtype: as which.
        work: is given the number of a stage; some of the first stage's cells; of those in them the last rows
            [cells, d, D - d] and [cells, d, d]; and whole triangular matrices of those that they lie in, made of what
            it returned for them, [cells', D - d, D - d] (None for the first stage).
    """

    def all_stages(roots: slice) -> None:
        above = None
        for stage, blocks in enumerate(rows):
            *mixed, own = (block[nested.part(stage, roots)].to(dtype) for block in blocks)
            before = torch.cat(mixed, 2) if mixed else own[:, :, :0]
            before, own = work(stage, roots, before, own, above)
            if above is None:
                above = own
            elif stage + 1 < len(rows):
                upper = F.pad(above, (0, own.shape[2])).repeat_interleave(len(own) // len(above), 0)
                above = torch.cat([upper, torch.cat([before, own], 2)], 1)

    wholes = [len(blocks[0]) * sum(block.shape[2] for block in blocks) ** 2 for blocks in rows[:-1]]
    nested.for_roots(all_stages, 2 * dtype.itemsize * sum([*wholes, *(block.numel() for block in rows[-1])]))


def _grouped(mixed: Tensor, above: Tensor) -> Tensor:
    """The rows of the cells in a cell one after another: [n, k d, D - d] from [n k, d, D - d]."""
    return mixed.view(len(above), -1, above.shape[2])


def _columns(blocks: Sequence[Tensor], mixed: Tensor, own: Tensor) -> list[Tensor]:
    """Last rows [cells, d, D - d] and [cells, d, d] as they are divided into blocks."""
    return [*mixed.split([block.shape[2] for block in blocks[:-1]], 2), own]
