"""Gaussians on grids that lie in one another, against NumPy and SciPy at each position."""

import numpy as np
import pytest
import torch
from nests import GRIDS, at_positions, levels, nest, observed, replicated
from scipy.spatial.distance import mahalanobis

from lightning_ad.statistics import grid_hierarchy as turns
from lightning_ad.statistics.hierarchical_gaussian import NestedGaussian
from lightning_ad.statistics.moments import Moments

EPSILON = 0.01


def gaussian(grids, maps, storage=torch.float32):
    nested = nest(grids)
    moments = observed(nested, maps, 7).finish()
    made = NestedGaussian.fitted(moments, EPSILON, storage)
    return NestedGaussian(nested, *made, EPSILON, torch.float64)


def distances(grids, maps, new, scale=1.0):
    """[B, P], position by position."""
    vectors, tested = replicated(maps, grids), replicated(new, grids)
    wanted = np.empty(tested.shape[:2])
    for position in range(tested.shape[1]):
        covariance = scale * np.cov(vectors[:, position].T) + EPSILON * np.eye(vectors.shape[2])
        inverse, mean = np.linalg.inv(covariance), vectors[:, position].mean(0)
        wanted[:, position] = [mahalanobis(v, mean, inverse) ** 2 for v in tested[:, position]]
    return wanted


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_distances_are_those_of_scipy(grids, scale):
    maps, new = levels(grids), levels(grids, 3, seed=1)
    fitted = gaussian(grids, maps)
    found = fitted.squared(fitted.nested.flat(new), scale)
    np.testing.assert_allclose(found, distances(grids, maps, new, scale), rtol=2e-4)


def test_one_scale_after_another():
    grids = GRIDS["dividing"]
    fitted = gaussian(grids, levels(grids))
    new = fitted.nested.flat(levels(grids, 3, seed=1))
    first, other, again = (fitted.squared(new, scale) for scale in (1.0, 1.5, 1.0))
    assert torch.equal(first, again)
    assert (other < first).all()
    assert fitted.whitened() is fitted.whitened()


def test_gradients_after_scores_in_inference_mode():
    grids = GRIDS["dividing"]
    fitted = gaussian(grids, levels(grids))
    new = fitted.nested.flat(levels(grids, 3, seed=1))
    with torch.inference_mode():
        scored = fitted.squared(new)
    again = fitted.squared(new.requires_grad_())
    again.sum().backward()
    torch.testing.assert_close(again, scored, rtol=0, atol=0)
    assert new.grad.abs().max() > 0


def test_turns_do_not_change_a_bit(monkeypatch):
    grids = GRIDS["not dividing"]
    maps, new = levels(grids), levels(grids, 3, seed=1)
    found = []
    for held in (1, 2**30):
        monkeypatch.setattr(turns, "HELD", held)
        fitted = gaussian(grids, maps)
        found.append(fitted.squared(fitted.nested.flat(new), 1.5))
    assert torch.equal(*found)


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_moments_come_back(grids):
    maps = levels(grids)
    fitted, resumed = gaussian(grids, maps), Moments(nest(grids), torch.float64)
    fitted.resume(resumed, 20)
    whole = observed(fitted.nested, maps, 7).finish()
    wanted = at_positions(fitted.nested, whole.scatters)
    np.testing.assert_allclose(
        at_positions(fitted.nested, resumed.scatters), wanted, atol=1e-5 * np.abs(wanted).max()
    )
    for own, wanted in zip(resumed.means, whole.means, strict=True):
        np.testing.assert_allclose(own, wanted, rtol=1e-6)
    resumed.means[0].fill_(7.0)
    assert (fitted.means[0] != 7.0).all()  # they are no views


def test_half_storage():
    grids = GRIDS["dividing"]
    maps, new = levels(grids), levels(grids, 3, seed=1)
    fitted = gaussian(grids, maps, torch.float16)
    assert fitted.factors[0][0].dtype == torch.float16
    np.testing.assert_allclose(
        fitted.squared(fitted.nested.flat(new)), distances(grids, maps, new), rtol=2e-2
    )


def test_a_covariance_without_an_inverse_is_refused():
    grids = [(2, 2), (4, 4)]
    moments = observed(nest(grids), [values[:3] for values in levels(grids)], 3).finish()
    with pytest.raises(torch.linalg.LinAlgError):  # 3 images span 2 dimensions
        NestedGaussian.fitted(moments, 0.0, torch.float32)
