import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scripts import PATIENCE

from lightning_ad.statistics import coreset
from lightning_ad.statistics.coreset import k_center_greedy, random_projection


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def naive_greedy(vectors, first, count, nearest=None):
    """Every distance from its difference, in float64; the first of equals."""
    vectors = vectors.astype(np.float64)
    selected = [] if first is None else [first]
    while True:
        if selected:
            last = np.linalg.norm(vectors - vectors[selected[-1]], axis=1)
            nearest = last if nearest is None else np.minimum(nearest, last)
        if len(selected) == count:
            return selected
        selected.append(int(nearest.argmax()))


def test_greedy_equals_a_naive_one():
    vectors = np.random.default_rng(0).normal(size=(400, 7)).astype(np.float32)
    ours = k_center_greedy(
        torch.from_numpy(vectors), 60, generator(), starting_points=None
    ).rows.tolist()
    assert ours == naive_greedy(vectors, ours[0], 60)


def released_greedy(vectors, count):
    """The released sampler without approximation: first distances are norms over all others."""
    distances = cdist(vectors, vectors)
    anchor = np.linalg.norm(distances, axis=1)
    selected = []
    for _ in range(count):
        selected.append(int(anchor.argmax()))
        anchor = np.minimum(anchor, distances[selected[-1]])
    return selected


@pytest.mark.parametrize("seed", range(5))
def test_greedy_starts_as_the_released_sampler(seed):
    vectors = np.random.default_rng(seed).gamma(2.0, size=(300, 5)).astype(np.float32)
    ours = k_center_greedy(torch.from_numpy(vectors), 40, generator(), starting_points=0)
    assert ours.rows.tolist() == released_greedy(vectors.astype(np.float64), 40)


def test_approximate_start_is_the_mean_distance_to_random_points():
    vectors = np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32)
    starts = torch.randperm(300, generator=generator(4))[:10].numpy()
    distances = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors[starts], axis=2).mean(
        1
    )
    ours = k_center_greedy(torch.from_numpy(vectors), 40, generator(4)).rows.tolist()
    assert ours == naive_greedy(vectors, None, 40, distances)


@pytest.mark.parametrize("starting_points", [None, 0, 10])
def test_no_vector_twice_even_among_duplicates(starting_points):
    vectors = torch.ones(30, 4) * torch.arange(3).repeat(10)[:, None] + 1000
    selected = k_center_greedy(vectors, 30, generator(), starting_points).rows
    assert sorted(selected.tolist()) == list(range(30))


def test_the_first_centres_are_those_of_a_smaller_count():
    vectors = torch.randn(200, 6, generator=generator(9))
    fifty, twenty = (k_center_greedy(vectors, count, generator()).rows for count in (50, 20))
    assert torch.equal(fifty[:20], twenty)


def test_random_projection_has_the_bounds_of_a_linear_layer():
    matrix = random_projection(400, 128, generator())
    assert matrix.shape == (400, 128)
    assert 0.049 < matrix.abs().max() <= 0.05
    assert matrix.var().item() == pytest.approx(0.1**2 / 12, rel=0.02)


def test_equal_float32_greedy_where_vectors_lie_far_from_the_origin(monkeypatch):
    """Their products round to more than the distances that decide; pools and blocks are small."""
    monkeypatch.setattr(coreset, "POOL", 16)
    monkeypatch.setattr(coreset, "BLOCK_BYTES", 4096)
    vectors = torch.randn(2000, 32, generator=generator(3)) + 100
    first = k_center_greedy(vectors, 400, generator(), starting_points=None)
    nearest, expected = (vectors - vectors[first.rows[0]]).square().sum(1), [int(first.rows[0])]
    while len(expected) < 400:
        expected.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (vectors - vectors[expected[-1]]).square().sum(1))
    assert first.rows.tolist() == expected
    brute = np.sqrt(cdist(vectors, vectors[first.rows], "sqeuclidean").min(1).max())
    assert first.radius == pytest.approx(brute, rel=1e-4)


@pytest.mark.parametrize("starting_points", [None, 1, 10])
@pytest.mark.parametrize("count", [1, 5, 60])
def test_the_radius_is_that_of_the_centres_whatever_the_start(starting_points, count):
    spread = torch.randn(300, 4, generator=generator(5))
    lonely = torch.cat([torch.zeros(99, 4), torch.full((1, 4), 100.0)])
    for vectors in (spread, lonely):
        found = k_center_greedy(vectors, count, generator(), starting_points)
        brute = np.sqrt(cdist(vectors, vectors[found.rows], "sqeuclidean").min(1).max())
        assert found.radius == pytest.approx(brute, rel=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("starting_points", [None, 10])
def test_a_selection_holds_little_beside_its_vectors(starting_points):
    """From one centre on, where every distance is new."""
    script = f"""
import torch
from lightning_ad.statistics.coreset import k_center_greedy
from pathlib import Path
def held(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
draw = torch.Generator().manual_seed(0)
k_center_greedy(torch.randn(2000, 256), 50, draw, {starting_points})
vectors = torch.randn(200000, 256)
Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
k_center_greedy(vectors, 50, draw, {starting_points})
print((held("VmHWM") - before) * 1024 / vectors.nbytes)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert float(ran.stdout) < 0.5


class Saver:
    """A saver that saves after some rounds, and then raises what a stop would."""

    def __init__(self, rounds, state=None):
        self.rounds, self.state = rounds, state

    def due(self):
        self.rounds -= 1
        return self.rounds == 0

    def save(self, count, state):
        self.state = {name: value.clone() for name, value in state.items()}
        assert len(state["selected"]) == count
        raise InterruptedError

    def saved_state(self):
        return self.state


@pytest.mark.parametrize("starting_points", [None, 10])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_selection_goes_on_where_it_was_stopped(monkeypatch, starting_points, rounds):
    monkeypatch.setattr(coreset, "POOL", 8)
    vectors = torch.randn(500, 6, generator=torch.Generator().manual_seed(3))

    def select(saver=None):
        return coreset.k_center_greedy(
            vectors, 60, torch.Generator().manual_seed(0), starting_points, saver=saver
        )

    whole, stopped = select(), Saver(rounds)
    with pytest.raises(InterruptedError):
        select(stopped)
    assert 0 < len(stopped.state["selected"]) < 60
    again = select(Saver(-1, stopped.state))
    assert torch.equal(again.rows, whole.rows)
    assert again.radius == whole.radius
