"""Gaussians of principal components, as the released code of Mahalanobis AD fits them."""

from typing import Literal

import torch
from torch import Tensor

from lightning_ad.statistics.gaussian import ShrunkGaussian
from lightning_ad.statistics.moments import Moments

SEED = 0  # of directions in which the vectors have no variance


class ComponentGaussian:
    """A Gaussian of the principal components of vectors, of which all are there.

    The components are as many as scikit-learn's `PCA` has: the smaller of N and D. So with fewer
    vectors than dimensions the last one has no variance, and with more, those of constant
    dimensions have none. They are kept, and the covariance is that of `LedoitWolf` of all kept
    components. What a new vector has in a direction without variance counts in full.

    With fewer vectors than dimensions, the direction of the last component is not determined:
    scikit-learn's is made of rounding errors. Here it is drawn, the same on every machine.

    Args:
        vectors: float64 [N, D], at least 2.
        components: pca for those of most variance, npca for those of least.
        share: of the variance, at which they are cut (`released_components`).

    Attributes:
        mean: [D].
        directions: [K, D], the components, of length 1.
        shrinkage: between 0 and 1.
        whitening: [K, D]; the distance of x is |whitening (x - mean)|.

    Raises:
        torch.linalg.LinAlgError: if there is no variance in the components.
    """

    def __init__(self, vectors: Tensor, components: Literal["pca", "npca"], share: float) -> None:
        self.mean = vectors.mean(0)
        deviations = vectors - self.mean
        variances, basis = _spectrum(deviations)
        kept = released_components(variances, len(vectors), components, share)
        rank = _rank(variances, len(vectors))
        varying = basis[:, kept.start : min(kept.stop, rank)]
        constant = kept.stop - max(kept.start, rank)
        directions = [varying]
        if constant > 0:
            directions.append(_constant_directions(basis[:, :rank], basis[:, rank:], constant))
        self.directions = torch.cat(directions, 1).T
        projected = deviations @ varying
        projected = torch.nn.functional.pad(projected, (0, max(constant, 0)))
        self._gaussian = ShrunkGaussian(_moments(projected), "all", share, shrink=True)
        self.shrinkage = self._gaussian.shrinkage
        self.whitening = self._gaussian.whitening @ self.directions

    @property
    def dimension(self) -> int:
        """The number of components that are kept."""
        return len(self.directions)

    def squared(self, vectors: Tensor) -> Tensor:
        """Returns the squared distances [N] of vectors [N, D]."""
        return self._gaussian.squared(self._project(vectors))

    def squared_without(self, vectors: Tensor) -> Tensor:
        """Returns the squared distances [N] of fitted vectors as though each had not been fitted.

        Equal to another fit without the vector, shrinkage included; but the components stay. Takes
        a fit of 3 vectors or more.
        """
        return self._gaussian.squared_without(self._project(vectors))

    def _project(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) @ self.directions.T


def released_components(
    variances: Tensor, count: int, kind: Literal["pca", "npca"], share: float
) -> slice:
    """Returns which principal components are kept by the released code.

    With pca the first ones, up to the one with which they explain more than `share` of the
    variance; with npca those from the one before it on, whether they have variance or not.

    Args:
        variances: [D], descending; or any multiple of them.
        count: N vectors; they have min(N, D) components.
        kind: pca, or npca.
        share: of the variance, above 0 and below 1.
    """
    last = min(count, len(variances))
    explained = variances[:last].cumsum(0) / variances[:last].sum()
    crossing = int((explained <= share).sum())
    crossing = min(crossing, last - 1)
    if kind == "pca":
        return slice(0, crossing + 1)
    return slice(max(crossing - 1, 0), last)


def _spectrum(deviations: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the variances [D] of all components, descending, and these [D, D], in columns."""
    powers, basis = torch.linalg.eigh(deviations.T @ deviations)
    return powers.flip(0).clamp(min=0), basis.flip(1)


def _rank(variances: Tensor, count: int) -> int:
    """Returns in how many components N vectors have variance."""
    noise = torch.finfo(variances.dtype).eps * len(variances)
    above_noise = (variances > noise * variances[0]).sum()
    rank = min(len(variances), count - 1, int(above_noise))
    if not rank:
        raise torch.linalg.LinAlgError(f"{count} vectors that are all the same have no variance")
    return rank


def _constant_directions(varying: Tensor, constant: Tensor, count: int) -> Tensor:
    """Returns directions [D, count] in which there is no variance.

    Args:
        varying: [D, R], a basis of those in which there is some.
        constant: [D, D - R], a basis of those in which there is none, in no particular order.
        count: of directions; if there are more, some are drawn.
    """
    if count == constant.shape[1]:
        return constant
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randn(len(varying), count, generator=generator, dtype=torch.float64)
    drawn = drawn.to(varying.device)
    drawn = drawn - varying @ (varying.T @ drawn)
    return torch.linalg.qr(drawn)[0]


def _moments(projected: Tensor) -> Moments:
    """Returns the moments of all vectors' components [N, K], whose mean is 0."""
    norms = projected.square().sum(1)
    moments = Moments(projected.shape[1], projected.device)
    moments.fill(
        len(projected),
        torch.zeros_like(moments.mean),
        projected.T @ projected,
        norms @ projected,
        norms.square().sum()[None],
    )
    return moments
