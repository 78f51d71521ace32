"""Coresets of parts cover all vectors within their radius, on one process and on three."""

import pytest
import torch
from scipy.spatial.distance import cdist

from lightning_ad.errors import CapacityError
from lightning_ad.statistics.coreset import coresets_of_parts, k_center_greedy

COUNT = 40


def vectors():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1500, 6, generator=generator) * torch.rand(1500, 1, generator=generator)


def merged(own, size):
    generator = torch.Generator().manual_seed(2)
    return coresets_of_parts(
        lambda start, stop: own[start:stop], len(own), size, COUNT, generator, None
    )


def covers(centres):
    return cdist(vectors().double(), centres.double()).min(1).max()


def test_one_part_is_the_selection_itself():
    left, radius = merged(vectors(), 1500)
    whole = k_center_greedy(vectors(), COUNT, torch.Generator().manual_seed(2), None)
    assert left.tolist() == sorted(whole.rows.tolist())
    assert radius == whole.radius


def test_what_parts_leave_covers_all_and_selecting_from_it_stays_in_the_bound():
    left, radius = merged(vectors(), 400)  # four parts, the last one short
    assert len(left) == 4 * COUNT
    assert left.tolist() == sorted(set(left.tolist()))
    assert covers(vectors()[left]) <= radius * (1 + 1e-6)
    chosen = k_center_greedy(vectors()[left], COUNT, torch.Generator().manual_seed(0), None)
    found = covers(vectors()[left][chosen.rows])
    assert found <= (radius + chosen.radius) * (1 + 1e-6)
    whole = k_center_greedy(vectors(), COUNT, torch.Generator().manual_seed(0), None)
    assert found < 1.5 * covers(vectors()[whole.rows])


def test_no_more_is_left_than_can_be_held():
    left, _ = merged(vectors(), 100)  # fifteen parts
    assert COUNT <= len(left) <= 100
    for total, size, count in ((1500, 100, 95), (1401, 100, 90), (1500, 40, 40), (50, 30, 30)):
        own = vectors()[:total]
        left, _ = coresets_of_parts(
            lambda a, b, v=own: v[a:b], total, size, count, torch.Generator(), None
        )
        assert count <= len(left.unique()) == len(left) <= size
    with pytest.raises(CapacityError) as raised:
        merged(vectors(), 39)
    assert raised.value.wanted == 40
    assert raised.value.capacity == 39


def left_by(rank):
    own = vectors()[[slice(0, 700), slice(700, 700), slice(700, 1500)][rank]]
    left, radius = merged(own, 300)
    return own[left], radius


@pytest.mark.distributed
def test_three_processes_of_which_one_has_nothing(over_processes):
    found = over_processes(3, left_by)
    radii = {radius for _, radius in found}
    assert len(radii) == 1
    assert covers(torch.cat([left for left, _ in found])) <= radii.pop() * (1 + 1e-6)
    assert sum(len(left) for left, _ in found) == 3 * COUNT
