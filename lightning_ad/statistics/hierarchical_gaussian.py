"""Gaussians on grids that lie in one another (`statistics.nesting`): what is a coarse cell's is kept and computed once.

Matrices are given stage by stage by their last rows: of some cells [cells, d, D - d], `mixed` with the coarser levels'
dimensions (which come first), and [cells, d, d], their `own`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.statistics.gaussian import whitening
from lightning_ad.statistics.grid_hierarchy import Nesting, by_cell
from lightning_ad.statistics.moments import Moments

Rows = list[list[Tensor]]  # of each stage its blocks, see `statistics.nesting`
Step = Callable[
    [Tensor, Tensor], tuple[Tensor, Tensor]
]  # from a stage's last rows to those of what is made of them


class NestedGaussian:
    """A Gaussian of the vectors at each position.

    Args:
        nested: the cells.
        means: of all stages, one after another, float32 [sum of n d].
        factors: the blocks of the last rows of the covariances' Cholesky factors likewise, [sum of n d D].
        epsilon: that was added to the variances.
        dtype: in which factors are inverted and covariances computed.
    """

    def __init__(
        self,
        nested: Nesting,
        means: Tensor,
        factors: Tensor,
        epsilon: float,
        dtype: torch.dtype,
    ) -> None:
        self.nested, self.epsilon, self.dtype = nested, epsilon, dtype
        own = zip(means.split(nested.vectors()), nested.counts(), nested.dimensions, strict=True)
        self.means = [part.view(n, d) for part, n, d in own]
        self.factors = _blocks(nested, factors)
        self._whitened: tuple[float, Rows] | None = None

    @staticmethod
    def fitted(moments: Moments, epsilon: float, storage: torch.dtype) -> tuple[Tensor, Tensor]:
        """Means and factors of finished moments, whose scatters are used up: turned into the factors.

        Raises:
            torch.linalg.LinAlgError: where a covariance is not positive definite.
        """
        nested, scale = moments.nested, 1 / (moments.count - 1)

        def factorise(roots: slice) -> None:
            step = _factorising()
            for stage, blocks in enumerate(moments.scatters):
                mixed, own = _last_rows(blocks, nested.part(stage, roots))
                _write(
                    blocks,
                    nested.part(stage, roots),
                    *step(mixed * scale, _with_variance(own * scale, epsilon)),
                )

        nested.for_roots(factorise, _work_bytes(nested, moments.means[0].dtype))
        factors = torch.empty(sum(nested.numbers()), dtype=storage, device=moments.means[0].device)
        for kept, made in zip(_blocks(nested, factors), moments.scatters, strict=True):
            for block, values in zip(kept, made, strict=True):
                block.copy_(values)
        return torch.cat([mean.flatten() for mean in moments.means]).float(), factors

    def resume(self, moments: Moments, count: int) -> None:
        """Fills empty moments with those of the `count` images that this is of."""
        moments.count = count
        for mean, kept in zip(moments.means, self.means, strict=True):
            mean.copy_(kept)

        def multiply(roots: slice) -> None:
            step = _multiplying()
            for stage, blocks in enumerate(self.factors):
                part = self.nested.part(stage, roots)
                mixed, own = step(*_last_rows(blocks, part, self.dtype))
                mixed, own = mixed * (count - 1), _with_variance(own, -self.epsilon) * (count - 1)
                _write(moments.scatters[stage], part, mixed, own)

        self.nested.for_roots(multiply, _work_bytes(self.nested, self.dtype))

    def squared(self, flat: Tensor, scale: float = 1.0) -> Tensor:
        """Squared Mahalanobis distances [B, P] of images as `Nesting.flat` gives them, float32 [B, sum of n d].

        `scale` multiplies the covariances, but not epsilon.
        """
        images, counts, whitened = len(flat), self.nested.counts(), self.whitened(scale)
        squared = flat.new_empty(counts[-1], images)

        def work(roots: slice) -> None:
            deviations = [
                vectors
                - self.means[stage][self.nested.part(stage, roots)].view(len(vectors), 1, -1)
                for stage, vectors in enumerate(self.nested.own(flat, roots))
            ]
            total = squared.new_zeros(len(deviations[0]), images, 1)
            for stage, (own, blocks) in enumerate(zip(deviations, whitened, strict=True)):
                white = torch.zeros_like(own)
                for level, block in enumerate(blocks):
                    inside = self.nested.inside(level)
                    part = (
                        by_cell(deviations[level], inside) @ block[self.nested.part(level, roots)]
                    )
                    white += part.unflatten(0, (-1, inside)).transpose(1, 2).flatten(2)
                found = white.square_().unflatten(2, (-1, self.nested.dimensions[stage])).sum(3)
                total = found + total.repeat_interleave(found.shape[2] // total.shape[2], 2)
            squared[self.nested.part(len(counts) - 1, roots)] = total.transpose(1, 2).flatten(0, 1)

        self.nested.for_roots(work, 3 * flat.nbytes)
        return squared[self.nested.cells].T

    def whitened(self, scale: float = 1.0) -> Rows:
        """The inverses of the factors, float32: blocks transposed, those of the cells in a cell side by side.

        They are [n', d', k d], where n' cells of an earlier stage have k of the stage's cells in them. Those of the
        last scale that was asked for are kept.
        """
        if self._whitened is not None and self._whitened[0] == scale:
            return self._whitened[1]
        self._whitened = None  # the room of the one is for the other

        def invert(roots: slice) -> None:
            multiply, factorise, step = _multiplying(), _factorising(), _inverting()
            for stage, blocks in enumerate(self.factors):
                mixed, own = _last_rows(blocks, self.nested.part(stage, roots), self.dtype)
                if scale != 1:
                    mixed, own = multiply(mixed, own)
                    own = _with_variance(own * scale, (1 - scale) * self.epsilon)
                    mixed, own = factorise(mixed * scale, own)
                mixed, own = step(mixed, own)
                for level, values in enumerate(_columns(blocks, mixed, own)):
                    part = made[stage][level][self.nested.part(level, roots)]
                    part.copy_(values.reshape(len(part), -1, part.shape[1]).mT)

        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # they stay, and may be of use for gradients later
            made = self._room()
            self.nested.for_roots(invert, _work_bytes(self.nested, self.dtype))
        self._whitened = scale, made
        return made

    def _room(self) -> Rows:
        """For what `whitened` gives."""
        counts = self.nested.counts()
        return [
            [block.new_empty(n, block.shape[2], len(block) // n * block.shape[1], dtype=torch.float32)
             for n, block in zip(counts, blocks, strict=False)]
            for blocks in self.factors
        ]  # fmt: skip


class _Above:
    """Whole triangular matrices [n, D, D] of the cells that those of the next stage lie in.

    They are put together only where there is one: of the last stage they would be the largest.
    """

    def __init__(self) -> None:
        self.whole: Tensor | None = None
        self._rows: tuple[Tensor, Tensor] | None = None

    def add(self, mixed: Tensor, own: Tensor) -> None:
        """The last rows of a stage."""
        self._rows = mixed, own

    def __call__(self) -> Tensor | None:
        """Those of the stages so far; None before the first."""
        if self._rows is not None:
            mixed, own = self._rows
            rows, self._rows = torch.cat([mixed, own], 2), None
            if self.whole is None:
                self.whole = rows
            else:
                upper = F.pad(self.whole, (0, own.shape[2])).repeat_interleave(
                    len(own) // len(self.whole), 0
                )
                self.whole = torch.cat([upper, rows], 1)
        return self.whole


def _factorising() -> Step:
    """From covariances to their Cholesky factors."""
    above = _Above()

    def step(mixed: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        if (whole := above()) is not None:
            solved = torch.linalg.solve_triangular(whole, _grouped(mixed, whole).mT, upper=False)
            mixed = solved.mT.reshape(mixed.shape)
            own = own - mixed @ mixed.mT
        own = torch.linalg.cholesky(own)
        above.add(mixed, own)
        return mixed, own

    return step


def _multiplying() -> Step:
    """From Cholesky factors to the covariances."""
    above = _Above()

    def step(mixed: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        whole = above()
        above.add(mixed, own)
        with_above = mixed if whole is None else (_grouped(mixed, whole) @ whole.mT).view_as(mixed)
        return with_above, mixed @ mixed.mT + own @ own.mT

    return step


def _inverting() -> Step:
    """From Cholesky factors to their inverses."""
    above = _Above()

    def step(mixed: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        own = whitening(own)
        if (whole := above()) is not None:
            mixed = -(own @ (_grouped(mixed, whole) @ whole).view_as(mixed))
        above.add(mixed, own)
        return mixed, own

    return step


def _blocks(nested: Nesting, flat: Tensor) -> Rows:
    """Views of numbers that lie block after block."""
    blocks, start, dimensions = [], 0, nested.dimensions
    for stage, n in enumerate(nested.counts()):
        blocks.append([])
        for d in dimensions[: stage + 1]:
            numbers = n * dimensions[stage] * d
            blocks[-1].append(flat[start : start + numbers].view(n, dimensions[stage], d))
            start += numbers
    return blocks


def _last_rows(
    blocks: Sequence[Tensor], part: slice, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Those of some cells of a stage."""
    *mixed, own = (block[part].to(dtype or block.dtype) for block in blocks)
    return torch.cat(mixed, 2) if mixed else own[:, :, :0], own


def _write(blocks: Sequence[Tensor], part: slice, mixed: Tensor, own: Tensor) -> None:
    for block, values in zip(blocks, _columns(blocks, mixed, own), strict=True):
        block[part] = values


def _columns(blocks: Sequence[Tensor], mixed: Tensor, own: Tensor) -> list[Tensor]:
    """Last rows as they are divided into blocks."""
    return [*mixed.split([block.shape[2] for block in blocks[:-1]], 2), own]


def _with_variance(own: Tensor, added: float) -> Tensor:
    own.diagonal(dim1=1, dim2=2).add_(added)
    return own


def _grouped(mixed: Tensor, whole: Tensor) -> Tensor:
    """The rows of the cells in a cell one after another: [n, k d, D - d] from [n k, d, D - d]."""
    return mixed.view(len(whole), -1, whole.shape[2])


def _work_bytes(nested: Nesting, dtype: torch.dtype) -> int:
    """Bytes that going down the stages holds: of the last one its rows, of those before it whole matrices."""
    (*coarse, last), dimensions = nested.counts(), nested.dimensions
    wholes = [n * sum(dimensions[: stage + 1]) ** 2 for stage, n in enumerate(coarse)]
    return 2 * dtype.itemsize * (sum(wholes) + last * dimensions[-1] * sum(dimensions))
