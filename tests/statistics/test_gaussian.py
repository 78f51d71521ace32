import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf, empirical_covariance
from sklearn.decomposition import PCA

from lightning_ad.statistics.gaussian import (
    ShrunkGaussian,
    pack_triangle,
    principal_components,
    squared_mahalanobis,
    unpack_triangle,
    whitening,
)
from lightning_ad.statistics.moments import Moments

SHAPES = [(40, 6), (12, 30), (3, 5)]  # more vectors than dimensions, fewer, and the fewest


def sample(count, dimension):
    rng = np.random.default_rng(count)
    return rng.gamma(2.0, size=(count, dimension)) @ rng.normal(size=(dimension, dimension)) + 20


def moments(values):
    found = Moments(values.shape[1])
    found.update(torch.from_numpy(values))
    return found.finish()


def gaussian(values, components="all", share=0.9, shrink=True):
    return ShrunkGaussian(moments(values), components, share, shrink)


def distances(values, mean, covariance):
    inverse = np.linalg.inv(covariance)
    return [mahalanobis(v, mean, inverse) for v in values]


@pytest.mark.parametrize("shape", SHAPES)
def test_ledoit_wolf_is_that_of_scikit_learn(shape):
    values, new = sample(*shape), sample(7, shape[1])
    expected, found = LedoitWolf().fit(values), gaussian(values)
    assert float(found.shrinkage) == pytest.approx(expected.shrinkage_, rel=1e-9)
    covariance = np.linalg.inv(found.whitening.T @ found.whitening)
    np.testing.assert_allclose(
        covariance, expected.covariance_, rtol=0, atol=1e-9 * expected.covariance_.max()
    )
    wanted = distances(new, expected.location_, expected.covariance_)
    np.testing.assert_allclose(found.squared(torch.from_numpy(new)).sqrt(), wanted, rtol=1e-8)


def test_without_shrinkage():
    values, new = sample(40, 6), sample(7, 6)
    wanted = distances(new, values.mean(0), empirical_covariance(values))
    np.testing.assert_allclose(
        gaussian(values, shrink=False).squared(torch.from_numpy(new)).sqrt(), wanted, rtol=1e-8
    )
    with pytest.raises(torch.linalg.LinAlgError):
        gaussian(sample(12, 30), shrink=False)
    with pytest.raises(torch.linalg.LinAlgError):
        gaussian(np.ones((5, 3)))


@pytest.mark.parametrize("shape", [(60, 10), (12, 30)])
@pytest.mark.parametrize("kind", ["pca", "npca"])
def test_principal_components_are_those_of_scikit_learn(shape, kind):
    values, new, share = sample(*shape), sample(7, shape[1]), 0.9
    pca = PCA().fit(values)
    crossing = int(np.argmax(np.cumsum(pca.explained_variance_ratio_) > share))
    rank = min(shape[0] - 1, shape[1])
    kept = slice(0, crossing + 1) if kind == "pca" else slice(crossing - 1, rank)
    found = gaussian(values, kind, share, shrink=False)
    assert found.dimension == len(range(rank)[kept])
    variance = pca.explained_variance_[kept] * (shape[0] - 1) / shape[0]
    wanted = np.sqrt((pca.transform(new)[:, kept] ** 2 / variance).sum(1))
    np.testing.assert_allclose(found.squared(torch.from_numpy(new)).sqrt(), wanted, rtol=1e-7)


def test_shrinkage_of_components_is_near_that_of_the_projected_vectors():
    rng = np.random.default_rng(0)
    values = (
        rng.normal(size=(20000, 20))
        * np.linspace(5, 0.5, 20)
        * rng.gamma(5.0, 0.2, size=(20000, 1))
    )
    for kind in ("pca", "npca"):
        found = gaussian(values, kind, 0.8)
        projected = PCA().fit(values).transform(values)
        kept = (
            projected[:, : found.dimension] if kind == "pca" else projected[:, -found.dimension :]
        )
        assert float(found.shrinkage) == pytest.approx(LedoitWolf().fit(kept).shrinkage_, rel=0.05)


@pytest.mark.parametrize(
    ("variances", "share", "pca", "npca"),
    [
        ([6, 2, 1, 1], 0.7, slice(0, 2), slice(0, 4)),  # 0.6, 0.8, ...: the second crosses
        ([6, 2, 1, 1], 0.85, slice(0, 3), slice(1, 4)),
        ([6, 2, 1, 1], 0.5, slice(0, 1), slice(0, 4)),  # there is none before the first
        ([6, 2, 1, 1, 0, 0], 0.999, slice(0, 4), slice(2, 4)),  # 5 vectors have 4 directions
    ],
)
def test_which_components_are_kept(variances, share, pca, npca):
    variances = torch.tensor(variances, dtype=torch.float64)
    assert principal_components(variances, 5, "pca", share) == pca
    assert principal_components(variances, 5, "npca", share) == npca


@pytest.mark.parametrize("shape", [(40, 6), (12, 30), (4, 5)])
def test_leave_one_out_equals_a_fit_without_it(shape):
    values = sample(*shape)
    found = gaussian(values).squared_without(torch.from_numpy(values)).sqrt()
    for row, distance in enumerate(found):
        rest = LedoitWolf().fit(np.delete(values, row, 0))
        (wanted,) = distances(values[row : row + 1], rest.location_, rest.covariance_)
        assert float(distance) == pytest.approx(wanted, rel=1e-7)


def test_leave_one_out_without_shrinkage():
    values = sample(40, 6)
    found = gaussian(values, shrink=False).squared_without(torch.from_numpy(values)).sqrt()
    for row, distance in enumerate(found):
        rest = np.delete(values, row, 0)
        (wanted,) = distances(values[row : row + 1], rest.mean(0), empirical_covariance(rest))
        assert float(distance) == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("kind", ["pca", "npca"])
def test_leave_one_out_in_components_that_stay(kind):
    values = sample(40, 6)
    full = gaussian(values, kind, shrink=False)
    found = full.squared_without(torch.from_numpy(values)).sqrt()
    components = PCA().fit(values).components_
    kept = components[: full.dimension] if kind == "pca" else components[-full.dimension :]
    for row, distance in enumerate(found):
        rest = np.delete(values, row, 0) @ kept.T
        covariance = np.atleast_2d(empirical_covariance(rest))
        (wanted,) = distances(values[row : row + 1] @ kept.T, rest.mean(0), covariance)
        assert float(distance) == pytest.approx(wanted, rel=1e-7)


def test_whitening_gives_the_distances_of_scipy():
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(3, 5, 5))
    covariances = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(5)
    deviations = rng.normal(size=(3, 4, 5))
    factors = torch.linalg.cholesky(torch.from_numpy(covariances))
    packed = pack_triangle(factors)
    assert packed.shape == (3, 15)
    assert torch.equal(unpack_triangle(packed, 5), factors)
    found = squared_mahalanobis(torch.from_numpy(deviations), whitening(factors)).sqrt()
    wanted = [distances(d, np.zeros(5), c) for d, c in zip(deviations, covariances, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


@pytest.mark.parametrize("kind", ["pca", "npca"])
def test_components_without_variance_are_never_kept(kind):
    vectors = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors[:, 2] = 3.0  # a constant channel
    vectors[:, 4] = vectors[:, 0] + vectors[:, 1]
    gaussian = ShrunkGaussian(moments(vectors.numpy()), kind, 0.9, shrink=False)
    assert gaussian.whitening.abs().max() < 100
    assert gaussian.squared(vectors).isfinite().all()
