"""Which cells of a fine grid lie in which cells of a coarse one."""

import pytest
import torch
from grids import DIMENSIONS, GRIDS, feature_maps, hierarchy_of, replicated

from lightning_ad.statistics.grid_hierarchy import GridHierarchy


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_each_position_lies_in_the_places_of_its_nearest_neighbours(grids):
    hierarchy = hierarchy_of(grids)
    counts = hierarchy.cell_counts()
    cells = hierarchy.cells
    rows, columns = grids[-1]
    for level in range(len(grids) - 1, -1, -1):
        height, width = grids[level]
        wanted = [
            y * height // rows * width + x * width // columns
            for y in range(rows)
            for x in range(columns)
        ]
        assert hierarchy.places[level][cells].tolist() == wanted
        if level:
            cells = cells // (counts[level] // counts[level - 1])
    # The last grid is that of the positions.
    assert len(set(hierarchy.cells.tolist())) == len(hierarchy.cells)


def test_the_drawing_in_the_docstring():
    """The cells of the 2x3 / 4x6 / 8x12 example, line by line."""
    drawing = GridHierarchy.__doc__
    grids = GRIDS["dividing"]
    middle = hierarchy_of(grids[:2]).cells.view(4, 6)
    fine = hierarchy_of(grids).cells.view(8, 12)

    def line(cells):
        pairs = [f"{a:2d} {b:2d}" for a, b in cells.view(-1, 2).tolist()]
        return "|" + "|".join(pairs) + "|"

    lines = [line(row) for row in middle] + [line(row) for row in fine[:4, :4]]
    assert [text for text in lines if text not in drawing] == []


@pytest.mark.parametrize(
    ("grids", "counts"),
    [
        ([(2, 3), (4, 6), (8, 12)], [6, 24, 96]),
        ([(1, 1)], [1]),
        ([(2, 2), (4, 4)], [4, 16]),
        # The middle third lies in both halves: two parts of 2 each would be 16.
        ([(2, 2), (3, 3)], [9, 9]),
    ],
)
def test_how_many_cells_there_are(grids, counts):
    assert hierarchy_of(grids).cell_counts() == counts


def test_cells_are_cut_if_that_keeps_fewer_numbers():
    """SqueezeNet's grids at 224 px: 3 x 3 parts with 3 x 3 positions each would be 13,689 cells."""
    dimensions = [62, 22, 16]
    hierarchy = GridHierarchy([(13, 13), (27, 27), (55, 55)], dimensions, (55, 55))
    a, b, c = dimensions
    n = hierarchy.cell_counts()
    assert hierarchy.matrix_sizes() == [n[0] * a * a, n[1] * b * (a + b), n[2] * c * 100]
    assert sum(hierarchy.matrix_sizes()) < 0.45 * 55 * 55 * 100**2
    assert n[-1] < 5000


def test_the_vectors_in_some_coarse_cells():
    grids = GRIDS["cut"]
    maps = feature_maps(grids, 2)
    hierarchy = hierarchy_of(grids)
    at_positions = torch.from_numpy(replicated(maps, grids)).float()
    coarse = slice(1, 3)
    last = hierarchy.vectors_in(hierarchy.flatten(maps), coarse)[-1]
    own = last.unflatten(2, (-1, DIMENSIONS[-1]))  # [coarse cells, B, cells in each, d]
    contained = hierarchy.cells_per_coarse_cell(2)
    for position, cell in enumerate(hierarchy.cells.tolist()):
        coarse_cell, place = divmod(cell - coarse.start * contained, contained)
        if 0 <= coarse_cell < 2:
            wanted = at_positions[:, position, -DIMENSIONS[-1] :]
            assert torch.equal(own[coarse_cell, :, place], wanted)
