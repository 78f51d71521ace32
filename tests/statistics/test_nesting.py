"""Nested statistics against NumPy and SciPy on vectors that are replicated onto the finest grid, one by one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import mahalanobis

from lightning_ad.statistics import moments as streaming
from lightning_ad.statistics.nested import covariances_of, factorise, nested_squared_distances, whitening_of
from lightning_ad.statistics.nesting import NestedMoments, Nesting

DIMENSIONS = [4, 3, 2]  # of the coarsest level first
GRIDS = {
    "dividing": [(2, 3), (4, 6), (8, 12)],
    "not dividing": [(2, 4), (4, 7), (7, 13)],
    "finer than the positions": [(2, 2), (9, 9), (5, 5)],
    "one": [(3, 3)],
}


def levels(grids, images=20, seed=0):
    """Maps [N, h w, d] with as many dimensions as DIMENSIONS says, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(images, h * w, d, generator=generator) for (h, w), d in zip(grids, DIMENSIONS, strict=False)]
    return [(values + values.mean(2, keepdim=True)).square() + 10 for values in drawn]


def replicated(maps, grids):
    """The vectors [N, P, D] of the last grid's positions."""
    whole = []
    for values, (height, width) in zip(maps, grids, strict=True):
        grid = values.mT.unflatten(2, (height, width))
        whole.append(F.interpolate(grid, grids[-1], mode="nearest").flatten(2).mT)
    return torch.cat(whole, 2).double().numpy()


def observed(nested, maps, sizes, dtype=torch.float64):
    moments = NestedMoments(nested, DIMENSIONS[: len(maps)], dtype)
    for part in nested.flat(maps).split(sizes):
        moments.update(part)
    return moments


def at_positions(nested, rows):
    """The whole symmetric matrices [P, D, D] of the positions, from the last rows of each stage."""
    cells, parts = nested.cells, []
    for stage in range(len(rows) - 1, -1, -1):
        parts.append(torch.cat([*rows[stage]], 2)[cells])
        cells = cells // (nested.counts()[stage] // nested.counts()[stage - 1]) if stage else cells
    lower = np.zeros((len(nested.cells), *[sum(part.shape[1] for part in parts)] * 2))
    row = 0
    for part in reversed(parts):
        lower[:, row : row + part.shape[1], : part.shape[2]] = part
        row += part.shape[1]
    lower = np.tril(lower)
    return lower + np.tril(lower, -1).transpose(0, 2, 1)


def covariances(nested, maps):
    moments = observed(nested, maps, 7).finish()
    return moments, [[block / (moments.count - 1) for block in blocks] for blocks in moments.scatters]


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("sizes", [1, 7, 20])
def test_moments_are_those_of_numpy(grids, sizes, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 8)
    maps, nested = levels(grids), Nesting(grids, grids[-1])
    moments, vectors = observed(nested, maps, sizes).finish(), replicated(maps, grids)
    assert moments.count == 20
    for position, scatter in enumerate(at_positions(nested, moments.scatters)):
        expected = np.cov(vectors[:, position].T) * 19
        np.testing.assert_allclose(scatter, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    own = slice(-DIMENSIONS[len(grids) - 1], None)
    np.testing.assert_allclose(moments.means[-1][nested.cells], vectors.mean(0)[:, own], rtol=1e-12)


def test_only_new_rows_are_kept():
    nested = Nesting(GRIDS["dividing"], (8, 12))
    moments = NestedMoments(nested, DIMENSIONS, torch.float64)
    assert nested.counts() == [6, 24, 96]
    kept = sum(part.numel() for rows in moments.scatters for part in rows)
    assert kept == 6 * 4 * 4 + 24 * 3 * 7 + 96 * 2 * 9 < 96 * 9 * 9 / 3


def test_batches_do_not_change_a_bit_and_a_state_goes_on(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 8)
    grids = GRIDS["not dividing"]
    maps, nested = levels(grids), Nesting(grids, grids[-1])
    whole = observed(nested, maps, 1)
    other = NestedMoments(nested, DIMENSIONS, torch.float64)
    other.restore(observed(nested, [m[:11] for m in maps], 11).state())
    other.update(nested.flat([m[11:] for m in maps]))
    for one, two in zip(whole.finish().state()["sums"], other.finish().state()["sums"], strict=True):
        assert torch.equal(one, two)


def test_threads_do_not_change_a_bit():
    grids = GRIDS["dividing"]
    maps, nested, before = levels(grids), Nesting(grids, grids[-1]), torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(observed(nested, maps, 5).finish().state()["sums"])
    torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_float32_does_not_cancel():
    grids = GRIDS["dividing"]
    maps, nested = [values + 1000 for values in levels(grids)], Nesting(grids, grids[-1])
    found, wanted = (
        at_positions(nested, observed(nested, maps, 5, dtype).finish().scatters)
        for dtype in (torch.float32, torch.float64)
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_distances_are_those_of_scipy(grids):
    maps, nested = levels(grids), Nesting(grids, grids[-1])
    moments, rows = covariances(nested, maps)
    vectors, new = replicated(maps, grids), levels(grids, 3, seed=1)
    tested = replicated(new, grids)
    factorise(nested, rows)
    whitening = whitening_of(nested, rows, torch.float64)
    found = nested_squared_distances(nested, nested.flat(new), [m.float() for m in moments.means], whitening)
    for position in range(tested.shape[1]):
        inverse = np.linalg.inv(np.cov(vectors[:, position].T))
        mean = vectors[:, position].mean(0)
        wanted = [mahalanobis(v, mean, inverse) ** 2 for v in tested[:, position]]
        np.testing.assert_allclose(found[:, position], wanted, rtol=2e-4)


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_covariances_come_back_from_their_factors(grids):
    maps, nested = levels(grids), Nesting(grids, grids[-1])
    _, rows = covariances(nested, maps)
    factors = [[block.clone() for block in blocks] for blocks in rows]
    factorise(nested, factors)
    np.testing.assert_allclose(
        at_positions(nested, covariances_of(nested, factors, torch.float64)), at_positions(nested, rows), atol=1e-12
    )


def test_a_covariance_without_an_inverse_is_refused():
    nested = Nesting([(2, 2), (4, 4)], (4, 4))
    _, rows = covariances(nested, [values[:3] for values in levels([(2, 2), (4, 4)])])  # 3 images span 2 dimensions
    with pytest.raises(torch.linalg.LinAlgError):
        factorise(nested, rows)


def merged(rank):
    grids = GRIDS["not dividing"]
    nested, maps = Nesting(grids, grids[-1]), levels(grids)
    parts = [slice(0, 12), slice(12, 12), slice(12, 20)]
    return observed(nested, [values[parts[rank]] for values in maps], 5).finish().state()["sums"]


@pytest.mark.distributed
def test_processes_are_merged_even_where_one_has_seen_nothing(over_processes):
    found = over_processes(3, merged)
    grids = GRIDS["not dividing"]
    whole = observed(Nesting(grids, grids[-1]), levels(grids), 20).finish().state()["sums"]
    for sums in found:
        for one, two in zip(sums, whole, strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-12 * max(two.abs().flatten().tolist(), default=0))
