"""Moments of vectors, against NumPy."""

import numpy as np
import pytest
import torch

from lightning_ad.statistics import moments as moments_module
from lightning_ad.statistics.moments import Moments


def vectors(images=75, dimension=7, offset=10.0):
    generator = torch.Generator().manual_seed(3)
    mixing = torch.rand(dimension, dimension, generator=generator)
    return torch.rand(images, dimension, generator=generator).square() @ mixing + offset


def moments_of(values, batch_size=10):
    moments = Moments(values.shape[1])
    for batch in values.split(batch_size):
        moments.update(batch)
    return moments


def assert_are_numpys(moments, values, tolerance=1e-11):
    values = values.double().numpy()
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=tolerance)
    deviations = values - values.mean(0)
    scatter = deviations.T @ deviations
    np.testing.assert_allclose(moments.scatter, scatter, rtol=0, atol=tolerance * len(values))
    norms = (deviations**2).sum(1)
    np.testing.assert_allclose(moments.fourth[0], (norms**2).sum(), rtol=tolerance)
    third = (norms[:, None] * deviations).sum(0)
    np.testing.assert_allclose(moments.third, third, rtol=0, atol=tolerance * np.abs(third).max())


def test_moments_are_those_of_numpy(monkeypatch):
    monkeypatch.setattr(moments_module, "BLOCK", 16)  # several blocks, the last one a part
    assert_are_numpys(moments_of(vectors()).finish(), vectors())


def test_vectors_far_from_the_origin_do_not_cancel():
    values = vectors(offset=1e6).double()
    moments = moments_of(values).finish()
    np.testing.assert_allclose(moments.scatter, np.cov(values.T) * 74, rtol=1e-7)


def test_batches_do_not_change_a_bit_and_a_state_continues(monkeypatch):
    monkeypatch.setattr(moments_module, "BLOCK", 16)
    values = vectors()
    restored = Moments(7)
    restored.restore(moments_of(values[:33], 33).state())
    restored.update(values[33:])
    restored.finish()
    whole = moments_of(values, 1).finish()
    for name in ("mean", "scatter", "third", "fourth"):
        assert torch.equal(getattr(restored, name), getattr(whole, name))


def test_continuing_from_earlier_moments():
    values = vectors()
    before = moments_of(values[:33]).finish()
    after = Moments(7)
    after.fill(before.count, before.mean, before.scatter, before.third, before.fourth)
    after.update(values[33:])
    assert_are_numpys(after.finish(), values)


def merged(rank):
    values = vectors()
    values[:60] += 1
    moments = moments_of([values[:60], values[60:60], values[60:]][rank]).finish()
    assert_are_numpys(moments, values)
    return moments.scatter


@pytest.mark.distributed
def test_processes_are_merged_even_if_one_has_seen_nothing(over_processes):
    first, *others = over_processes(3, merged)
    assert all(torch.equal(first, other) for other in others)
