"""Gaussians from moments: shrinkage, Mahalanobis distances, and both without one of the vectors."""

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lightning_ad.statistics.moments import Moments

Components = Literal["all", "pca", "npca"]


class ShrunkGaussian:
    """A Gaussian of vectors, of which there may be fewer than dimensions.

    Its covariance is that of scikit-learn's `LedoitWolf`: S / N, shrunk towards the multiple of the
    identity that has the same trace. With principal components it is the covariance of the vectors'
    projections, except for one thing that the moments do not contain: the fourth powers of the
    projections' norms are assumed to exceed those of a Gaussian by the same factor as those of the
    vectors do (true of all elliptical distributions).

    Args:
        moments: of at least 2 vectors.
        components: all; pca or npca, see `principal_components`.
        share: of the variance, for pca and npca.
        shrink: False for S / N as it is.

    Attributes:
        mean: [D].
        shrinkage: between 0 and 1.
        whitening: [K, D], if K components are kept; the distance of x is |whitening (x - mean)|.

    Raises:
        torch.linalg.LinAlgError: if the covariance has no inverse.
    """

    def __init__(
        self, moments: Moments, components: Components, share: float, shrink: bool
    ) -> None:
        self._moments = moments
        self._shrink = shrink
        self._kept = slice(None)
        self.mean = moments.mean
        if components == "all":
            self.shrinkage, self.whitening = self._whiten_all()
        else:
            self.shrinkage, self.whitening = self._whiten_components(components, share)

    @property
    def dimension(self) -> int:
        """The number of components that are kept."""
        return len(self.whitening)

    def squared(self, vectors: Tensor) -> Tensor:
        """Returns the squared distances [N] of vectors [N, D]."""
        deviations = vectors - self.mean
        return squared_mahalanobis(deviations[None], self.whitening[None])[0]

    def squared_without(self, vectors: Tensor) -> Tensor:
        """Returns the squared distances [N] of fitted vectors as though each had not been fitted.

        Equal to another fit without the vector, shrinkage included; but the directions of principal
        components stay. Takes a fit of 3 vectors or more.
        """
        count = self._moments.count
        powers, basis = self._spectrum
        deviations = vectors - self.mean
        parts = (deviations @ basis).square()
        removed = parts * (count / (count - 1))
        fourth = fourth_without(
            count - 1,
            powers.sum(),
            self._moments.fourth[0],
            parts.sum(1),
            parts @ powers,
            deviations @ self._moments.third,
        )
        whole_sums = _trace_and_squares_without(powers, removed, slice(None))
        kept_sums = _trace_and_squares_without(powers, removed, self._kept)
        _, weight, ridge = self._weights(count - 1, self.dimension, whole_sums, kept_sums, fourth)
        variances = weight[:, None] * powers[self._kept] + ridge[:, None]
        squared = (parts[:, self._kept] / variances).sum(1)
        return leave_one_out(squared, count, weight)

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues of the scatter [D], descending, and eigenvectors [D, D], in columns."""
        powers, basis = torch.linalg.eigh(self._moments.scatter)
        return powers.flip(0).clamp(min=0), basis.flip(1)

    def _whiten_all(self) -> tuple[Tensor, Tensor]:
        """Returns the shrinkage and the whitening with all components."""
        count = self._moments.count
        scatter = self._moments.scatter
        dimension = len(scatter)
        if not self._shrink and count <= dimension:
            raise torch.linalg.LinAlgError(
                f"{count} vectors of dimension {dimension} span no volume"
            )
        sums = _trace_and_squares(scatter)
        fourth = self._moments.fourth[0]
        shrinkage, weight, ridge = self._weights(count, dimension, sums, sums, fourth)
        covariance = weight * scatter
        covariance.diagonal().add_(ridge)
        return shrinkage, whitening(torch.linalg.cholesky(covariance))

    def _whiten_components(
        self, components: Literal["pca", "npca"], share: float
    ) -> tuple[Tensor, Tensor]:
        """Chooses the components to keep, and returns the shrinkage and the whitening with them."""
        count = self._moments.count
        powers, basis = self._spectrum
        self._kept = principal_components(powers, count, components, share)
        powers = powers[self._kept]
        sums = _trace_and_squares(self._moments.scatter)
        kept_sums = torch.stack([powers.sum(), powers.square().sum()])
        fourth = self._moments.fourth[0]
        shrinkage, weight, ridge = self._weights(count, len(powers), sums, kept_sums, fourth)
        deviations = (weight * powers + ridge).sqrt()
        return shrinkage, (basis[:, self._kept] / deviations).T

    def _weights(
        self, count: int, dimension: int, sums: Tensor, kept_sums: Tensor, fourth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the shrinkage, and a and b of the covariance a S + b I, all of one shape.

        Args:
            count: N vectors.
            dimension: number of components that are kept.
            sums: [2, ...], the traces of S and of its square over all components.
            kept_sums: the same over the components that are kept.
            fourth: the sum of the fourth powers of the norms of the deviations.
        """
        trace, squares = kept_sums
        whole_trace, whole_squares = sums
        gaussian = whole_trace.square() + 2 * whole_squares
        excess = (trace.square() + 2 * squares) / gaussian
        shrinkage = torch.zeros_like(trace)
        if self._shrink:
            shrinkage = ledoit_wolf_shrinkage(count, dimension, trace, squares, fourth * excess)
        ridge = shrinkage * trace / (count * dimension)
        return shrinkage, (1 - shrinkage) / count, ridge


def _trace_and_squares(scatter: Tensor) -> Tensor:
    """Returns the traces of a symmetric matrix and of its square, [2]."""
    return torch.stack([scatter.trace(), scatter.square().sum()])


def _trace_and_squares_without(powers: Tensor, removed: Tensor, kept: slice) -> Tensor:
    """Returns the same over the components `kept`, without each of N vectors in turn, [2, N].

    Args:
        powers: [D], the eigenvalues of the scatter matrix.
        removed: [N, D], what each vector takes from its diagonal, in the basis of eigenvectors.
        kept: the components.
    """
    removed_trace = removed[:, kept].sum(1)
    removed_products = (powers * removed)[:, kept].sum(1)
    trace = powers[kept].sum() - removed_trace
    squares = powers[kept].square().sum() - 2 * removed_products
    return torch.stack([trace, squares + removed_trace.square()])


def ledoit_wolf_shrinkage(
    count: int, dimension: int, trace: Tensor, squares: Tensor, fourth: Tensor
) -> Tensor:
    """Returns Ledoit and Wolf's shrinkage (J. Multivariate Analysis 2004), between 0 and 1.

    The tensors have one shape: one entry for each set of vectors.

    Args:
        count: N vectors.
        dimension: D.
        trace: of the scatter matrix S.
        squares: the sum of its squared entries.
        fourth: the sum of the fourth powers of the norms of the deviations from the mean.
    """
    spread = squares / count**2
    identity = (trace / count).square() / dimension
    distance = (spread - identity).clamp(min=0)
    error = (fourth / count - spread).clamp(min=0) / count
    error = torch.minimum(error, distance)
    return torch.where(error > 0, error / distance, 0)


def fourth_without(
    rest: int, trace: Tensor, fourth: Tensor, norm: Tensor, quadratic: Tensor, third: Tensor
) -> Tensor:
    """Returns the sum of the fourth powers of the deviations' norms without one of the vectors.

    Args:
        rest: number of vectors that stay.
        trace: of the scatter matrix S of all.
        fourth: the sum over all vectors.
        norm: |d|^2 of the one that goes, d its deviation from the mean of all.
        quadratic: d' S d.
        third: the product of d with the sum of |e|^2 e over all deviations e.
    """
    moved = 4 * (quadratic - norm**2) / rest**2 + 4 * (third - norm**2) / rest
    return fourth - norm**2 + moved + 2 * norm * (trace - norm) / rest**2 - 3 * norm**2 / rest**3


def principal_components(
    variances: Tensor, count: int, kind: Literal["pca", "npca"], share: float
) -> slice:
    """Returns which principal components are kept (Rippel et al., ICPR 2020, section III).

    With pca the first ones, up to the one with which they explain more than `share` of the
    variance; with npca the last ones, from the one before it on.

    Args:
        variances: [D], descending; or any multiple of them.
        count: N vectors; they have variance in at most N - 1 directions, and directions without any
            are never kept.
        kind: pca, or npca.
        share: of the variance, above 0 and below 1.

    Raises:
        torch.linalg.LinAlgError: if there is no variance.
    """
    noise = torch.finfo(variances.dtype).eps * len(variances)
    above_noise = (variances > noise * variances[0]).sum()
    rank = min(len(variances), count - 1, int(above_noise))
    if not rank:
        raise torch.linalg.LinAlgError(
            f"{count} vectors that are all the same have no principal components"
        )
    kept = variances[:rank]
    explained = kept.cumsum(0) / kept.sum()
    crossing = int((explained <= share).sum())
    crossing = min(crossing, rank - 1)
    if kind == "pca":
        return slice(0, crossing + 1)
    return slice(max(crossing - 1, 0), rank)


def squared_mahalanobis(deviations: Tensor, whitening: Tensor) -> Tensor:
    """Returns the squared distances [P, N] of deviations [P, N, D], by a whitening [P, K, D]."""
    return torch.bmm(deviations, whitening.mT).square_().sum(2)


def whitening(factor: Tensor) -> Tensor:
    """Returns the inverses of Cholesky factors [..., D, D], by triangular solves.

    A product with them replaces a solve for each new vector, which libraries do many times slower.
    """
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity, upper=False)


def leave_one_out(squared: Tensor, count: int, weight: float | Tensor) -> Tensor:
    """Returns squared distances of fitted vectors as though each had not been fitted.

    Without x the scatter S about the mean m is S - N / (N - 1) d d', where d = x - m, and x is
    N / (N - 1) d away from the new mean; the inverse is Sherman and Morrison's.

    Args:
        squared: d' C^-1 d, where C = weight S + a term that stays.
        count: N, the number of fitted vectors, at least 3.
        weight: of the scatter in the covariance without x: 1 / (N - 2) for the unbiased one.
    """
    share = count / (count - 1)
    positive = torch.finfo(squared.dtype).eps  # the rest is above 0 except for rounding
    rest = (1 - share * weight * squared).clamp(min=positive)
    return share**2 * squared / rest


def pack_triangle(matrices: Tensor) -> Tensor:
    """Returns the lower triangles [P, D (D + 1) / 2] of matrices [P, D, D], row by row."""
    rows, columns = torch.tril_indices(*matrices.shape[1:], device=matrices.device)
    return matrices[:, rows, columns]


def unpack_triangle(packed: Tensor, dimension: int) -> Tensor:
    """Returns lower triangular matrices [P, D, D] from what `pack_triangle` has returned."""
    rows, columns = torch.tril_indices(dimension, dimension, device=packed.device)
    matrices = packed.new_zeros(len(packed), dimension, dimension)
    matrices[:, rows, columns] = packed
    return matrices
