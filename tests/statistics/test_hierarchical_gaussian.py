"""Gaussians of a grid hierarchy, against NumPy and SciPy at each position."""

import numpy as np
import pytest
import torch
from grids import (
    GRIDS,
    feature_maps,
    hierarchy_of,
    matrices_at_positions,
    moments_of,
    replicated,
)
from scipy.spatial.distance import mahalanobis

from lightning_ad.statistics import grid_hierarchy
from lightning_ad.statistics.hierarchical_gaussian import HierarchicalGaussian, fit_gaussian
from lightning_ad.statistics.hierarchical_moments import HierarchicalMoments

EPSILON = 0.01


def gaussian_of(grids, maps, storage=torch.float32):
    hierarchy = hierarchy_of(grids)
    moments = moments_of(hierarchy, maps, 7).finish()
    means, factors = fit_gaussian(moments, EPSILON, storage)
    return HierarchicalGaussian(hierarchy, means, factors, EPSILON, torch.float64)


def expected_distances(grids, maps, new, scale=1.0):
    """[B, P], position by position."""
    vectors = replicated(maps, grids)
    tested = replicated(new, grids)
    expected = np.empty(tested.shape[:2])
    for position in range(tested.shape[1]):
        covariance = scale * np.cov(vectors[:, position].T) + EPSILON * np.eye(vectors.shape[2])
        inverse = np.linalg.inv(covariance)
        mean = vectors[:, position].mean(0)
        expected[:, position] = [mahalanobis(v, mean, inverse) ** 2 for v in tested[:, position]]
    return expected


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_distances_are_those_of_scipy(grids, scale):
    maps = feature_maps(grids)
    new = feature_maps(grids, 3, seed=1)
    gaussian = gaussian_of(grids, maps)
    found = gaussian.squared(gaussian.hierarchy.flatten(new), scale)
    np.testing.assert_allclose(found, expected_distances(grids, maps, new, scale), rtol=2e-4)


def test_one_scale_after_another():
    grids = GRIDS["dividing"]
    gaussian = gaussian_of(grids, feature_maps(grids))
    new = gaussian.hierarchy.flatten(feature_maps(grids, 3, seed=1))
    first, other, again = (gaussian.squared(new, scale) for scale in (1.0, 1.5, 1.0))
    assert torch.equal(first, again)
    assert (other < first).all()
    assert gaussian.inverse_factors() is gaussian.inverse_factors()


def test_gradients_after_scores_in_inference_mode():
    grids = GRIDS["dividing"]
    gaussian = gaussian_of(grids, feature_maps(grids))
    new = gaussian.hierarchy.flatten(feature_maps(grids, 3, seed=1))
    with torch.inference_mode():
        scored = gaussian.squared(new)
    again = gaussian.squared(new.requires_grad_())
    again.sum().backward()
    torch.testing.assert_close(again, scored, rtol=0, atol=0)
    assert new.grad.abs().max() > 0


def test_the_size_of_blocks_does_not_change_a_bit(monkeypatch):
    grids = GRIDS["not dividing"]
    maps = feature_maps(grids)
    new = feature_maps(grids, 3, seed=1)
    found = []
    for block_bytes in (1, 2**30):
        monkeypatch.setattr(grid_hierarchy, "BLOCK_BYTES", block_bytes)
        gaussian = gaussian_of(grids, maps)
        found.append(gaussian.squared(gaussian.hierarchy.flatten(new), 1.5))
    assert torch.equal(*found)


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_moments_come_back(grids):
    maps = feature_maps(grids)
    gaussian = gaussian_of(grids, maps)
    hierarchy = gaussian.hierarchy
    filled = HierarchicalMoments(hierarchy, torch.float64)
    gaussian.fill(filled, 20)
    moments = moments_of(hierarchy, maps, 7).finish()
    expected = matrices_at_positions(hierarchy, moments.scatters)
    found = matrices_at_positions(hierarchy, filled.scatters)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    for mean, expected_mean in zip(filled.means, moments.means, strict=True):
        np.testing.assert_allclose(mean, expected_mean, rtol=1e-6)
    filled.means[0].fill_(7.0)
    assert (gaussian.means[0] != 7.0).all()  # they are no views


def test_half_storage():
    grids = GRIDS["dividing"]
    maps = feature_maps(grids)
    new = feature_maps(grids, 3, seed=1)
    gaussian = gaussian_of(grids, maps, torch.float16)
    assert gaussian.factors[0][0].dtype == torch.float16
    found = gaussian.squared(gaussian.hierarchy.flatten(new))
    np.testing.assert_allclose(found, expected_distances(grids, maps, new), rtol=2e-2)


def test_a_covariance_without_an_inverse_is_refused():
    grids = [(2, 2), (4, 4)]
    maps = [values[:3] for values in feature_maps(grids)]  # 3 images span 2 dimensions
    moments = moments_of(hierarchy_of(grids), maps, 3).finish()
    with pytest.raises(torch.linalg.LinAlgError):
        fit_gaussian(moments, 0.0, torch.float32)
