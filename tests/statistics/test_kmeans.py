"""k-means against scikit-learn from the same start, on one process and on two."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.cluster import kmeans_plusplus as theirs_plus_plus

from lightning_ad.statistics import kmeans as module
from lightning_ad.statistics.kmeans import best_kmeans, kmeans, kmeans_plus_plus


def blobs(count=600, dimension=12, centres=15):
    draw = torch.Generator().manual_seed(3)
    middles = torch.randn(centres, dimension, generator=draw) * 2
    which = torch.randint(centres, (count,), generator=draw)
    return middles[which] + torch.randn(count, dimension, generator=draw)


@pytest.mark.parametrize("tolerance", [0.0, 1e-4, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_no_worse_than_scikit_learn_from_the_same_start(tolerance, seed, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 12 * 100)  # blocks of 100 vectors
    vectors = blobs() + 50  # far from the origin, where products cancel
    start = vectors[torch.randperm(600, generator=torch.Generator().manual_seed(seed))[:40]]
    found = kmeans(vectors, start, tolerance=tolerance)
    theirs = KMeans(
        40, n_init=1, init=start.double().numpy(), tol=tolerance, algorithm="lloyd"
    ).fit(vectors.double())
    squared = cdist(vectors.double(), found.centres.double(), "sqeuclidean")
    assert found.inertia == pytest.approx(squared.min(1).sum(), rel=1e-6)
    assert found.inertia <= theirs.inertia_ * (1 + 1e-6)
    assert np.array_equal(found.labels, squared.argmin(1))
    if not tolerance:
        means = np.stack([vectors[found.labels == k].double().mean(0) for k in range(40)])
        np.testing.assert_allclose(found.centres, means, rtol=1e-6)


def test_max_iter_ends_it():
    vectors = blobs()
    one = kmeans(vectors, vectors[:40], max_iter=1)
    labels = cdist(vectors.double(), vectors[:40].double()).argmin(1)
    np.testing.assert_allclose(one.centres[3], vectors[labels == 3].double().mean(0), rtol=1e-6)


def test_empty_clusters_take_the_farthest_vectors():
    vectors = torch.tensor([[0.0], [0.1], [1.0], [1.2], [9.0], [20.0]])
    start = torch.tensor([[0.5], [500.0], [600.0]])  # two centres get nothing
    found = kmeans(vectors, start, max_iter=1)
    assert found.centres.flatten().tolist() == pytest.approx([2.3 / 4, 20.0, 9.0])
    assert kmeans(vectors, start).inertia == pytest.approx(4 * np.var([0.0, 0.1, 1.0, 1.2]))


def test_a_centre_that_gives_its_only_vector_stays_where_it_is():
    vectors = torch.tensor([[0.0], [0.0], [5.0]])
    found = kmeans(vectors, torch.tensor([[0.0], [9.0], [90.0]]), max_iter=1)
    assert found.centres.flatten().tolist() == [0.0, 9.0, 5.0]


def test_fewer_different_vectors_than_centres():
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(4, 1)
    start = kmeans_plus_plus(vectors, 5, torch.Generator().manual_seed(0))
    found = kmeans(vectors, start)
    assert found.inertia == 0
    assert {tuple(c) for c in found.centres.tolist()} == {(1.0, 2.0), (3.0, 4.0)}


def test_plus_plus_draws_by_squared_distance():
    """Two vectors at 0, one at 3 and one at 4: a draw after a 0 is 3 in 9 cases of 25.

    Of two draws, the one that leaves less is taken: 4, which leaves 9, before 3, which leaves 16.
    """
    vectors = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    generator = torch.Generator().manual_seed(0)
    drawn = [kmeans_plus_plus(vectors, 2, generator) for _ in range(1000)]
    first = np.array([d[0].norm().item() for d in drawn])
    assert np.mean(first == 0) == pytest.approx(0.5, abs=0.05)
    second = np.array([d[1].norm().item() for d in drawn])[first == 0]
    assert set(second.tolist()) == {3.0, 4.0}
    assert np.mean(second == 3) == pytest.approx((9 / 25) ** 2, abs=0.05)


def start_inertia(vectors, centres):
    return cdist(vectors, centres, "sqeuclidean").min(1).sum()


def test_starts_are_as_good_as_scikit_learns():
    vectors = blobs()
    ours = []
    theirs = []
    for seed in range(15):
        generator = torch.Generator().manual_seed(seed)
        ours.append(start_inertia(vectors, kmeans_plus_plus(vectors, 30, generator)))
        centres, _ = theirs_plus_plus(vectors.numpy(), 30, random_state=seed)
        theirs.append(start_inertia(vectors, centres))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.04)  # plainly drawn: 18 % more
    assert np.std(ours) < 2 * np.std(theirs)


def test_the_best_of_ten_starts_is_as_good_as_scikit_learns():
    vectors = blobs()
    found = best_kmeans(vectors, 30, torch.Generator().manual_seed(0))
    one = kmeans(vectors, kmeans_plus_plus(vectors, 30, torch.Generator().manual_seed(0)))
    theirs = KMeans(30, n_init=10, random_state=0).fit(vectors)
    assert found.inertia < one.inertia
    assert found.inertia < theirs.inertia_ * 1.005


SHARES = {"uneven": [slice(0, 451), slice(451, 600)], "all and none": [slice(0, 600), slice(0, 0)]}


def cluster(vectors):
    """A drawn start; and a given one, of which two centres get nothing at first."""
    start = kmeans_plus_plus(vectors, 30, torch.Generator().manual_seed(5))
    empty = torch.cat([start[:28], torch.full((2, 12), 1e3)])
    return [start, *kmeans(vectors, start)], [empty, *kmeans(vectors, empty, tolerance=0)]


def clustered_by(rank: int) -> dict[str, object]:
    return {name: cluster(blobs()[share[rank]]) for name, share in SHARES.items()}


@pytest.mark.distributed
def test_two_processes_find_the_centres_of_one(over_processes):
    got = over_processes(2, clustered_by)
    expected = cluster(blobs())
    for name, shares in SHARES.items():
        for k, (start, centres, labels, inertia) in enumerate(expected):
            for rank, share in enumerate(shares):
                torch.testing.assert_close(got[rank][name][k][0], start, rtol=0, atol=0)
                torch.testing.assert_close(got[rank][name][k][1], centres, rtol=1e-6, atol=1e-6)
                assert torch.equal(got[rank][name][k][2], labels[share])
                assert got[rank][name][k][3] == pytest.approx(inertia, rel=1e-6)
