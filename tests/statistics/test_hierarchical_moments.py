"""Moments of a grid hierarchy, against NumPy on vectors replicated onto the finest grid."""

import gc
import weakref

import numpy as np
import pytest
import torch
from grids import (
    DIMENSIONS,
    GRIDS,
    feature_maps,
    hierarchy_of,
    matrices_at_positions,
    moments_of,
    replicated,
)

from lightning_ad.statistics import moments as moments_module
from lightning_ad.statistics.hierarchical_moments import HierarchicalMoments


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_moments_are_those_of_numpy(grids, batch_size, monkeypatch):
    monkeypatch.setattr(moments_module, "BLOCK", 8)
    maps = feature_maps(grids)
    hierarchy = hierarchy_of(grids)
    moments = moments_of(hierarchy, maps, batch_size).finish()
    vectors = replicated(maps, grids)
    assert moments.count == 20
    for position, scatter in enumerate(matrices_at_positions(hierarchy, moments.scatters)):
        expected = np.cov(vectors[:, position].T) * 19
        np.testing.assert_allclose(scatter, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    own = slice(-DIMENSIONS[len(grids) - 1], None)
    means = moments.means[-1][hierarchy.cells]
    np.testing.assert_allclose(means, vectors.mean(0)[:, own], rtol=1e-12)


def test_only_new_rows_are_kept():
    hierarchy = hierarchy_of(GRIDS["dividing"])
    moments = HierarchicalMoments(hierarchy, torch.float64)
    kept = sum(block.numel() for block_row in moments.scatters for block in block_row)
    assert kept == 6 * 4 * 4 + 24 * 3 * 7 + 96 * 2 * 9 < 96 * 9 * 9 / 3


def test_batches_do_not_change_a_bit_and_a_state_continues(monkeypatch):
    monkeypatch.setattr(moments_module, "BLOCK", 8)
    grids = GRIDS["not dividing"]
    maps = feature_maps(grids)
    hierarchy = hierarchy_of(grids)
    whole = moments_of(hierarchy, maps, 1)
    restored = HierarchicalMoments(hierarchy, torch.float64)
    restored.restore(moments_of(hierarchy, [m[:11] for m in maps], 11).state())
    restored.update(hierarchy.flatten([m[11:] for m in maps]))
    expected = whole.finish().state()["sums"]
    for found, sums in zip(restored.finish().state()["sums"], expected, strict=True):
        assert torch.equal(found, sums)


def test_a_state_in_which_more_than_a_block_waits(monkeypatch):
    grids = GRIDS["dividing"]
    maps = feature_maps(grids)
    hierarchy = hierarchy_of(grids)
    state = moments_of(hierarchy, maps, 20).state()
    restored = HierarchicalMoments(hierarchy, torch.float64)
    monkeypatch.setattr(moments_module, "BLOCK", 8)  # it was 64
    restored.restore(state)
    assert restored.finish().count == 20
    means = restored.means[-1][hierarchy.cells]
    np.testing.assert_allclose(means, replicated(maps, grids).mean(0)[:, -2:], rtol=1e-12)


def test_they_are_freed_at_once():
    """Gigabytes must not wait for the collector of cycles."""
    grids = GRIDS["dividing"]
    moments = moments_of(hierarchy_of(grids), feature_maps(grids), 5)
    gone = weakref.ref(moments.finish())
    gc.disable()
    try:
        del moments
        assert gone() is None
    finally:
        gc.enable()


def test_float32_does_not_cancel():
    grids = GRIDS["dividing"]
    maps = [values + 1000 for values in feature_maps(grids)]
    hierarchy = hierarchy_of(grids)
    found, expected = (
        matrices_at_positions(hierarchy, moments_of(hierarchy, maps, 5, dtype).finish().scatters)
        for dtype in (torch.float32, torch.float64)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def merged(rank):
    grids = GRIDS["not dividing"]
    share = [slice(0, 12), slice(12, 12), slice(12, 20)][rank]
    maps = [values[share] for values in feature_maps(grids)]
    return moments_of(hierarchy_of(grids), maps, 5).finish().state()["sums"]


@pytest.mark.distributed
def test_processes_are_merged_even_if_one_has_seen_nothing(over_processes):
    grids = GRIDS["not dividing"]
    expected = moments_of(hierarchy_of(grids), feature_maps(grids), 20).finish().state()["sums"]
    for found in over_processes(3, merged):
        for sums, expected_sums in zip(found, expected, strict=True):
            largest = max(expected_sums.abs().flatten().tolist(), default=0)
            np.testing.assert_allclose(sums, expected_sums, rtol=0, atol=1e-12 * largest)
