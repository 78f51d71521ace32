"""Gaussians of components against PCA and LedoitWolf of scikit-learn, which released code uses."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from lightning_ad.statistics.components import ComponentGaussian

SHAPES = [(300, 40), (60, 200), (12, 30)]  # more vectors than dimensions, fewer, few


def sample(count, dimension, constant=0):
    rng = np.random.default_rng(count)
    mixing = rng.normal(size=(dimension, dimension)) * np.geomspace(1, 0.02, dimension)
    values = rng.gamma(2.0, size=(count, dimension)) @ mixing + 20
    values[:, :constant] = 3.0
    return values


def released(values, kind, share):
    """The components that are kept, and the Gaussian of the vectors' projections."""
    pca = PCA().fit(values)
    crossing = int((pca.explained_variance_ratio_.cumsum() > share).argmax())
    kept = slice(0, crossing + 1) if kind == "pca" else slice(crossing - 1, None)
    components = pca.components_[kept]
    return components, LedoitWolf().fit((values - values.mean(0)) @ components.T)


def distances(components, mean, precision, new):
    deviations = (new - mean) @ components.T
    return np.sqrt(np.einsum("nd,de,ne->n", deviations, precision, deviations))


@pytest.mark.parametrize("constant", [0, 5])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.9, 0.99])
@pytest.mark.parametrize("kind", ["pca", "npca"])
def test_as_scikit_learn(kind, share, shape, constant):
    values = sample(*shape, constant)
    new = sample(9, shape[1])
    components, theirs = released(values, kind, share)
    found = ComponentGaussian(torch.from_numpy(values), kind, share)
    assert found.dimension == len(components)
    assert float(found.shrinkage) == pytest.approx(theirs.shrinkage_, rel=1e-9)
    if kind == "npca" and shape[0] <= shape[1]:
        # The direction of their last component is made of rounding errors.
        np.testing.assert_allclose(
            values @ found.directions[-1].numpy(), values[0] @ found.directions[-1].numpy()
        )
        components[-1] = found.directions[-1]
    expected = distances(components, values.mean(0), theirs.precision_, new)
    np.testing.assert_allclose(found.squared(torch.from_numpy(new)).sqrt(), expected, rtol=1e-8)
    white = (torch.from_numpy(new) - found.mean) @ found.whitening.T
    np.testing.assert_allclose(white.norm(dim=1), expected, rtol=1e-8)


def test_what_is_new_in_a_constant_dimension_counts_in_full():
    values = sample(300, 40, constant=5)
    new = values[:1].copy()
    new[0, 2] += 1.0
    found = ComponentGaussian(torch.from_numpy(values), "npca", 0.9)
    moved = found.squared(torch.from_numpy(new)) - found.squared(torch.from_numpy(values[:1]))
    theirs = released(values, "npca", 0.9)[1]
    assert float(moved) == pytest.approx(theirs.precision_.max(), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["pca", "npca"])
def test_leave_one_out_in_components_that_stay(kind, shape):
    values = sample(*shape)
    full = ComponentGaussian(torch.from_numpy(values), kind, 0.9)
    found = full.squared_without(torch.from_numpy(values[:5])).sqrt()
    projected = values @ full.directions.T.numpy()
    for row, distance in enumerate(found):
        rest = np.delete(projected, row, 0)
        theirs = LedoitWolf().fit(rest)
        deviation = projected[row] - theirs.location_
        wanted = np.sqrt(deviation @ theirs.precision_ @ deviation)
        assert float(distance) == pytest.approx(wanted, rel=1e-6)


def test_vectors_that_are_all_the_same():
    with pytest.raises(torch.linalg.LinAlgError, match="all the same"):
        ComponentGaussian(torch.ones(5, 3, dtype=torch.float64), "npca", 0.9)
