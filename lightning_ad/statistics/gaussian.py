"""Gaussians from moments: shrinkage, Mahalanobis distances, and what they would be without one of the vectors."""

from functools import cached_property
from typing import Literal

import torch
from scipy.special import gammaincinv
from torch import Tensor

from lightning_ad.statistics.moments import NormMoments

Components = Literal["all", "pca", "npca"]


class ShrunkGaussian:
    """A Gaussian of vectors of which there may be fewer than dimensions.

    Its covariance is that of scikit-learn's `LedoitWolf`: S / N, drawn towards the multiple of the identity that has
    the same trace. With principal components it is the same of the vectors' projections, but for one thing that
    moments do not tell: the fourth powers of the projections' norms are taken to exceed those of a Gaussian by the
    factor by which those of the vectors do (true of all elliptical distributions).

    Args:
        moments: of at least 2 vectors.
        components: all; pca or npca, see `principal_components`.
        share: of the variance, for pca and npca.
        shrink: False for S / N as it is.

    Attributes:
        mean: [D].
        shrinkage: between 0 and 1.
        whitening: [K, D], where K components are kept; the distance of x is |whitening (x - mean)|.

    Raises:
        torch.linalg.LinAlgError: where the covariance has no inverse.
    """

    def __init__(
        self, moments: NormMoments, components: Components, share: float, shrink: bool
    ) -> None:
        self._moments, self._shrink, self._kept = moments, shrink, slice(None)
        self.mean, scatter = moments.mean, moments.scatter
        sums = torch.stack([scatter.trace(), scatter.square().sum()])
        if components == "all":
            if not shrink and moments.count <= len(scatter):
                raise torch.linalg.LinAlgError(
                    f"{moments.count} vectors of dimension {len(scatter)} span no volume"
                )
            self.shrinkage, weight, ridge = self._weights(
                moments.count, len(scatter), sums, sums, moments.fourth[0]
            )
            covariance = weight * scatter
            covariance.diagonal().add_(ridge)
            self.whitening = whitening(torch.linalg.cholesky(covariance))
        else:
            powers, basis = self._spectrum
            self._kept = principal_components(powers, moments.count, components, share)
            powers, basis = powers[self._kept], basis[:, self._kept]
            kept = torch.stack([powers.sum(), powers.square().sum()])
            self.shrinkage, weight, ridge = self._weights(
                moments.count, len(powers), sums, kept, moments.fourth[0]
            )
            self.whitening = (basis / (weight * powers + ridge).sqrt()).T

    @property
    def dimension(self) -> int:
        """Components that are kept."""
        return len(self.whitening)

    def squared(self, vectors: Tensor) -> Tensor:
        """Squared distances [N] of vectors [N, D]."""
        return squared_mahalanobis((vectors - self.mean)[None], self.whitening[None])[0]

    def squared_without(self, vectors: Tensor) -> Tensor:
        """Squared distances [N] of vectors of the fit, of 3 or more, as though each had not been in it.

        Equal to another fit without it, shrinkage too; but the directions of principal components stay.
        """
        count, (powers, basis) = self._moments.count, self._spectrum
        deviations = vectors - self.mean
        parts = (deviations @ basis).square()
        removed = parts * (count / (count - 1))

        def sums(kept: slice) -> Tensor:
            trace = powers[kept].sum() - removed[:, kept].sum(1)
            squares = powers[kept].square().sum() - 2 * (powers * removed)[:, kept].sum(1)
            return torch.stack([trace, squares + removed[:, kept].sum(1).square()])

        fourth = fourth_without(
            count - 1, powers.sum(), self._moments.fourth[0], parts.sum(1), parts @ powers,
            deviations @ self._moments.third,
        )  # fmt: skip
        _, weight, ridge = self._weights(
            count - 1, self.dimension, sums(slice(None)), sums(self._kept), fourth
        )
        variances = weight[:, None] * powers[self._kept] + ridge[:, None]
        return leave_one_out((parts[:, self._kept] / variances).sum(1), count, weight)

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the scatter matrix [D], descending, and eigenvectors [D, D], in columns."""
        powers, basis = torch.linalg.eigh(self._moments.scatter)
        return powers.flip(0).clamp(min=0), basis.flip(1)

    def _weights(
        self, count: int, kept: int, sums: Tensor, kept_sums: Tensor, fourth: Tensor
    ) -> tuple[Tensor, ...]:
        """The shrinkage, and a and b of the covariance a S + b I, all of a shape.

        `sums` [2, ...] are the trace of S and of its square, over all components and over those `kept`.
        """
        trace, squares = kept_sums
        excess = (trace.square() + 2 * squares) / (sums[0].square() + 2 * sums[1])
        shrinkage = torch.zeros_like(trace)
        if self._shrink:
            shrinkage = ledoit_wolf_shrinkage(count, kept, trace, squares, fourth * excess)
        return shrinkage, (1 - shrinkage) / count, shrinkage * trace / (count * kept)


def ledoit_wolf_shrinkage(
    count: int, dimension: int, trace: Tensor, squares: Tensor, fourth: Tensor
) -> Tensor:
    """Ledoit and Wolf's shrinkage (J. Multivariate Analysis 2004), between 0 and 1, for sets of vectors.

    Args:
        count: N vectors.
        dimension: D of them.
        trace: of the scatter matrix S.
        squares: the sum of its squared entries.
        fourth: the sum of the fourth powers of the norms of the deviations from the mean.
    """
    spread = squares / count**2
    distance = (spread - (trace / count).square() / dimension).clamp(min=0)
    error = torch.minimum((fourth / count - spread).clamp(min=0) / count, distance)
    return torch.where(error > 0, error / distance, 0)


def fourth_without(
    rest: int, trace: Tensor, fourth: Tensor, norm: Tensor, quadratic: Tensor, third: Tensor
) -> Tensor:
    """The sum of the fourth powers of the deviations' norms, without one of the vectors (or each of many in turn).

    Args:
        rest: vectors that stay.
        trace: of the scatter matrix S of all.
        fourth: what is asked for, of all.
        norm: |d|^2 of the one that goes, d its deviation from the mean of all.
        quadratic: d' S d.
        third: the product of d with the sum of |e|^2 e over all deviations e.
    """
    moved = 4 * (quadratic - norm**2) / rest**2 + 4 * (third - norm**2) / rest
    return fourth - norm**2 + moved + 2 * norm * (trace - norm) / rest**2 - 3 * norm**2 / rest**3


def principal_components(
    variances: Tensor, count: int, kind: Literal["pca", "npca"], share: float
) -> slice:
    """Which principal components are kept (Rippel et al., ICPR 2020, section III).

    With pca the first ones, up to the one with which they explain more than `share` of the variance; with npca the
    last ones, from the one before it on.

    Args:
        variances: [D], descending; or any multiple of them.
        count: N vectors; they have variance in N - 1 directions at most, and those without any are never kept.
        kind: pca, or npca.
        share: of the variance, above 0 and below 1.

    Raises:
        torch.linalg.LinAlgError: where there is no variance.
    """
    noise = torch.finfo(variances.dtype).eps * len(variances)
    rank = min(len(variances), count - 1, int((variances > noise * variances[0]).sum()))
    if not rank:
        raise torch.linalg.LinAlgError(
            f"{count} vectors that are all the same have no principal components"
        )
    explained = variances[:rank].cumsum(0) / variances[:rank].sum()
    crossing = min(int((explained <= share).sum()), rank - 1)
    return slice(0, crossing + 1) if kind == "pca" else slice(max(crossing - 1, 0), rank)


def chi_square_radius(dimension: int, probability: float) -> float:
    """The distance within which a vector of that many dimensions lies with this probability, where it is Gaussian."""
    return float(2 * gammaincinv(dimension / 2, probability)) ** 0.5


def squared_mahalanobis(deviations: Tensor, whitening: Tensor) -> Tensor:
    """Squared distances [P, N] of deviations from the mean [P, N, D], by a whitening [P, K, D]."""
    return torch.bmm(deviations, whitening.mT).square_().sum(2)


def whitening(factor: Tensor) -> Tensor:
    """The inverses of Cholesky factors [..., D, D], by triangular solves.

    A product with them takes the place of a solve for each new vector, which libraries do many times slower.
    """
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity, upper=False)


def leave_one_out(squared: Tensor, count: int, weight: float | Tensor) -> Tensor:
    """Squared distances of vectors as though each had not been among the `count` of the fit.

    Without x the scatter S about the mean m is S - N / (N - 1) d d', where d = x - m, and x is N / (N - 1) d away
    from the new mean; the inverse is Sherman and Morrison's.

    Args:
        squared: d' C^-1 d, where C = weight S + a term that stays.
        count: N, at least 3.
        weight: of the scatter in the covariance without x: 1 / (N - 2) for the unbiased one.
    """
    share = count / (count - 1)
    rest = (1 - share * weight * squared).clamp(
        min=torch.finfo(squared.dtype).eps
    )  # it is above 0 but for rounding
    return share**2 * squared / rest


def pack_triangle(matrices: Tensor) -> Tensor:
    """The lower triangles [P, D (D + 1) / 2] of matrices [P, D, D], row by row."""
    rows, columns = torch.tril_indices(*matrices.shape[1:], device=matrices.device)
    return matrices[:, rows, columns]


def unpack_triangle(packed: Tensor, dimension: int) -> Tensor:
    """Lower triangular matrices [P, D, D] from what `pack_triangle` gave."""
    rows, columns = torch.tril_indices(dimension, dimension, device=packed.device)
    matrices = packed.new_zeros(len(packed), dimension, dimension)
    matrices[:, rows, columns] = packed
    return matrices
