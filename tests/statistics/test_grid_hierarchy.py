"""Cells of grids that lie in one another."""

import pytest
import torch
from nests import DIMENSIONS, GRIDS, levels, nest, replicated

from lightning_ad.statistics.grid_hierarchy import Nesting


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_each_position_lies_in_the_places_of_its_nearest_neighbours(grids):
    nested = nest(grids)
    cells = nested.cells
    for stage in range(len(grids) - 1, -1, -1):
        (height, width), (down, right) = grids[stage], grids[-1]
        wanted = [
            y * height // down * width + x * width // right
            for y in range(down)
            for x in range(right)
        ]
        assert nested.places[stage][cells].tolist() == wanted
        if stage:
            cells = cells // (nested.counts()[stage] // nested.counts()[stage - 1])
    assert len(set(nested.cells.tolist())) == len(
        nested.cells
    )  # the last grid is that of the positions


@pytest.mark.parametrize(
    ("grids", "counts"),
    [
        ([(2, 3), (4, 6), (8, 12)], [6, 24, 96]),
        ([(1, 1)], [1]),
        ([(2, 2), (4, 4)], [4, 16]),
        (
            [(2, 2), (3, 3)],
            [9, 9],
        ),  # the middle third lies in both halves: two parts of 2 each would be 16
    ],
)
def test_how_many_cells_there_are(grids, counts):
    assert nest(grids).counts() == counts


def test_cells_are_cut_where_that_leaves_fewer_numbers():
    """SqueezeNet's grids at 224 px: 3 x 3 parts with 3 x 3 positions each would be 13,689 cells."""
    dimensions = [62, 22, 16]
    nested = Nesting([(13, 13), (27, 27), (55, 55)], dimensions, (55, 55))
    (a, b, c), n = dimensions, nested.counts()
    assert nested.numbers() == [n[0] * a * a, n[1] * b * (a + b), n[2] * c * 100]
    assert sum(nested.numbers()) < 0.45 * 55 * 55 * 100**2
    assert nested.counts()[-1] < 5000


def test_what_cells_have_is_taken_by_roots():
    grids = GRIDS["cut"]
    maps, nested = levels(grids, 2), nest(grids)
    flat = nested.flat(maps)
    vectors = torch.from_numpy(replicated(maps, grids)).float()
    roots = slice(1, 3)
    own = nested.own(flat, roots)[-1].unflatten(2, (-1, DIMENSIONS[-1]))  # [roots, B, k, d]
    first = roots.start * nested.inside(2)
    for position, cell in enumerate(nested.cells.tolist()):
        root, place = divmod(cell - first, nested.inside(2))
        if 0 <= root < 2:
            assert torch.equal(own[root, :, place], vectors[:, position, -DIMENSIONS[-1] :])
