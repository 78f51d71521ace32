"""Moments on grids that lie in one another, against NumPy on vectors that are replicated onto the finest grid."""

import gc
import weakref

import numpy as np
import pytest
import torch
from nests import DIMENSIONS, GRIDS, at_positions, levels, nest, observed, replicated

from lightning_ad.statistics import moments as streaming
from lightning_ad.statistics.moments import Moments, NormMoments


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("sizes", [1, 7, 20])
def test_moments_are_those_of_numpy(grids, sizes, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 8)
    maps, nested = levels(grids), nest(grids)
    moments, vectors = observed(nested, maps, sizes).finish(), replicated(maps, grids)
    assert moments.count == 20
    for position, scatter in enumerate(at_positions(nested, moments.scatters)):
        expected = np.cov(vectors[:, position].T) * 19
        np.testing.assert_allclose(scatter, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    own = slice(-DIMENSIONS[len(grids) - 1], None)
    np.testing.assert_allclose(moments.means[-1][nested.cells], vectors.mean(0)[:, own], rtol=1e-12)


def test_only_new_rows_are_kept():
    nested = nest(GRIDS["dividing"])
    moments = Moments(nested, torch.float64)
    assert nested.counts() == [6, 24, 96]
    kept = sum(part.numel() for rows in moments.scatters for part in rows)
    assert kept == 6 * 4 * 4 + 24 * 3 * 7 + 96 * 2 * 9 < 96 * 9 * 9 / 3


def test_batches_do_not_change_a_bit_and_a_state_goes_on(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 8)
    grids = GRIDS["not dividing"]
    maps, nested = levels(grids), nest(grids)
    whole = observed(nested, maps, 1)
    other = Moments(nested, torch.float64)
    other.restore(observed(nested, [m[:11] for m in maps], 11).state())
    other.update(nested.flat([m[11:] for m in maps]))
    for one, two in zip(
        whole.finish().state()["sums"], other.finish().state()["sums"], strict=True
    ):
        assert torch.equal(one, two)


def test_a_state_that_waits_for_more_than_a_block(monkeypatch):
    grids = GRIDS["dividing"]
    nested, maps = nest(grids), levels(grids)
    state, restored = observed(nested, maps, 20).state(), Moments(nested, torch.float64)
    monkeypatch.setattr(streaming, "BLOCK", 8)  # it was 64
    restored.restore(state)
    assert restored.finish().count == 20
    np.testing.assert_allclose(
        restored.means[-1][nested.cells], replicated(maps, grids).mean(0)[:, -2:], rtol=1e-12
    )


def test_they_are_freed_at_once():
    """Gigabytes must not wait for the collector of cycles."""
    grids = GRIDS["dividing"]
    moments = observed(nest(grids), levels(grids), 5)
    gone = weakref.ref(moments.finish())
    gc.disable()
    try:
        del moments
        assert gone() is None
    finally:
        gc.enable()


def test_float32_does_not_cancel():
    grids = GRIDS["dividing"]
    maps, nested = [values + 1000 for values in levels(grids)], nest(grids)
    found, wanted = (
        at_positions(nested, observed(nested, maps, 5, dtype).finish().scatters)
        for dtype in (torch.float32, torch.float64)
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def merged(rank):
    grids = GRIDS["not dividing"]
    nested, maps = nest(grids), levels(grids)
    parts = [slice(0, 12), slice(12, 12), slice(12, 20)]
    return observed(nested, [values[parts[rank]] for values in maps], 5).finish().state()["sums"]


@pytest.mark.distributed
def test_processes_are_merged_even_where_one_has_seen_nothing(over_processes):
    found = over_processes(3, merged)
    grids = GRIDS["not dividing"]
    whole = observed(nest(grids), levels(grids), 20).finish().state()["sums"]
    for sums in found:
        for one, two in zip(sums, whole, strict=True):
            np.testing.assert_allclose(
                one, two, rtol=0, atol=1e-12 * max(two.abs().flatten().tolist(), default=0)
            )


def vectors(images=75, dimension=7, offset=10.0):
    generator = torch.Generator().manual_seed(3)
    mixing = torch.rand(dimension, dimension, generator=generator)
    return torch.rand(images, dimension, generator=generator).square() @ mixing + offset


def norm_moments(values):
    moments = NormMoments(values.shape[1])
    for part in values.split(10):
        moments.update(part)
    return moments.finish()


def assert_norms(moments, values, tolerance=1e-11):
    values = values.double().numpy()
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=tolerance)
    deviations = values - values.mean(0)
    np.testing.assert_allclose(
        moments.scatter, deviations.T @ deviations, rtol=0, atol=tolerance * len(values)
    )
    norms = (deviations**2).sum(1)
    np.testing.assert_allclose(moments.fourth[0], (norms**2).sum(), rtol=tolerance)
    third = (norms[:, None] * deviations).sum(0)
    np.testing.assert_allclose(moments.third, third, rtol=0, atol=tolerance * np.abs(third).max())


def test_fourth_powers_of_the_norms(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 16)  # several blocks, the last one a part
    assert_norms(norm_moments(vectors()), vectors())


def test_going_on_from_earlier_norms():
    values = vectors()
    before, after = norm_moments(values[:33]), NormMoments(7)
    after.count = before.count
    for name in ("mean", "scatter", "third", "fourth"):
        getattr(after, name).copy_(getattr(before, name))
    after.update(values[33:])
    assert_norms(after.finish(), values)


def merged_norms(rank):
    values = vectors()
    values[:60] += 1
    moments = norm_moments([values[:60], values[60:60], values[60:]][rank])
    assert_norms(moments, values)
    return moments.scatter


@pytest.mark.distributed
def test_norms_of_processes_are_merged_even_where_one_has_seen_nothing(over_processes):
    first, *others = over_processes(3, merged_norms)
    assert all(torch.equal(first, other) for other in others)
