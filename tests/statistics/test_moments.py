from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_ad.statistics.moments import Moments, NormMoments

ROOT = Path(__file__).parents[2]


def vectors(images=75, positions=5, dimension=7, offset=0.0):
    generator = torch.Generator().manual_seed(3)
    mixing = torch.rand(positions, dimension, dimension, generator=generator)
    values = torch.rand(images, positions, dimension, generator=generator).square()
    return torch.einsum("npd,pde->npe", values, mixing) + offset


def observed(values, sizes, **options):
    moments = Moments(*values.shape[1:], **options)
    for part in values.split(sizes):
        moments.update(part)
    return moments.finish()


def assert_close(moments, values, tolerance):
    values = values.double().numpy()
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=tolerance)
    for position, scatter in enumerate(moments.scatter.numpy()):
        expected = np.cov(values[:, position].T, bias=True) * len(values)
        np.testing.assert_allclose(scatter, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("sizes", [1, 4, 64, 75])
def test_mean_and_scatter_are_those_of_numpy(sizes):
    values = vectors()
    assert_close(observed(values, sizes), values, 1e-12)


def test_batches_do_not_change_a_bit():
    values = vectors()
    assert torch.equal(observed(values, 1).scatter, observed(values, 75).scatter)


def test_float32_does_not_cancel():
    """A mean 1000 times the deviation would cost raw sums six of float32's seven digits."""
    values = vectors(500, offset=1000.0)
    assert_close(observed(values, 16, dtype=torch.float32), values, 1e-4)
    raw = values[:, 0].T @ values[:, 0] - 500 * values[:, 0].mean(0).outer(values[:, 0].mean(0))
    truth = 499 * torch.cov(values[:, 0].double().T)
    assert (raw - truth).abs().max() > 1e-2 * truth.max()  # the test can tell


def test_merging_is_the_same_as_observing_all():
    values = vectors()
    first, second = observed(values[:20], 8), observed(values[20:], 8)
    first.merge(second)
    assert_close(first, values, 1e-12)
    empty = Moments(5, 7)
    empty.merge(first)
    empty.merge(Moments(5, 7))
    assert_close(empty, values, 1e-12)


def norm_moments(values):
    moments = NormMoments(*values.shape[1:])
    for part in values.split(10):
        moments.update(part)
    return moments.finish()


def assert_norms(moments, values):
    deviations = (values.double() - values.double().mean(0)).numpy()
    norms = (deviations**2).sum(2)
    np.testing.assert_allclose(moments.fourth, (norms**2).sum(0), rtol=1e-11)
    third = (norms[..., None] * deviations).sum(0)
    np.testing.assert_allclose(moments.third, third, rtol=0, atol=1e-11 * np.abs(third).max())


def test_fourth_powers_of_the_norms():
    values = vectors(offset=10.0)
    assert_norms(norm_moments(values), values)
    first, second = norm_moments(values[:50] + 1), norm_moments(values[50:])
    first.merge(second)
    shifted = torch.cat([values[:50] + 1, values[50:]])
    assert_norms(first, shifted)
    assert_close(first, shifted, 1e-11)


def test_going_on_from_earlier_moments():
    values = vectors()
    before, after = observed(values[:33], 8), Moments(5, 7)
    after.count, after.mean, after.scatter = before.count, before.mean, before.scatter
    after.update(values[33:])
    assert_close(after.finish(), values, 1e-12)


def merged_moments(rank):
    values = vectors()
    moments = NormMoments(5, 7)
    moments.update([values[:60], values[60:60], values[60:]][rank])
    moments.finish()
    assert_close(moments, values, 1e-12)
    assert_norms(moments, values)
    return moments.scatter


@pytest.mark.distributed
def test_processes_are_merged_even_where_one_has_seen_nothing(over_processes):
    first, *others = over_processes(3, merged_moments)
    assert all(torch.equal(first, other) for other in others)
