"""Feature maps of several levels, and the same as NumPy and SciPy want them."""

import numpy as np
import torch
import torch.nn.functional as F

from lightning_ad.statistics.grid_hierarchy import GridHierarchy
from lightning_ad.statistics.hierarchical_moments import HierarchicalMoments

DIMENSIONS = [4, 3, 2]  # of the coarsest level first
GRIDS = {
    "dividing": [(2, 3), (4, 6), (8, 12)],
    "not dividing": [(2, 4), (4, 7), (7, 13)],
    "cut": [(5, 4), (7, 9), (18, 19)],
    "finer than the positions": [(2, 2), (9, 9), (5, 5)],
    "one": [(3, 3)],
}


def hierarchy_of(grids):
    return GridHierarchy(grids, DIMENSIONS[: len(grids)], grids[-1])


def feature_maps(grids, images=20, seed=0):
    """Maps [N, h w, d] with as many dimensions as DIMENSIONS names, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for (height, width), dimension in zip(grids, DIMENSIONS, strict=False):
        drawn = torch.rand(images, height * width, dimension, generator=generator)
        maps.append((drawn + drawn.mean(2, keepdim=True)).square() + 10)
    return maps


def replicated(maps, grids):
    """The vectors [N, P, D] of the last grid's positions."""
    levels = []
    for values, (height, width) in zip(maps, grids, strict=True):
        grid = values.mT.unflatten(2, (height, width))
        levels.append(F.interpolate(grid, grids[-1], mode="nearest").flatten(2).mT)
    return torch.cat(levels, 2).double().numpy()


def moments_of(hierarchy, maps, batch_size, dtype=torch.float64):
    moments = HierarchicalMoments(hierarchy, dtype)
    for batch in hierarchy.flatten(maps).split(batch_size):
        moments.update(batch)
    return moments


def matrices_at_positions(hierarchy, block_rows):
    """The whole symmetric matrices [P, D, D] of the positions."""
    counts = hierarchy.cell_counts()
    cells = hierarchy.cells
    rows_at_positions = []
    for level in range(len(block_rows) - 1, -1, -1):
        rows_at_positions.insert(0, torch.cat(block_rows[level], 2)[cells])
        if level:
            cells = cells // (counts[level] // counts[level - 1])
    size = sum(rows.shape[1] for rows in rows_at_positions)
    lower = np.zeros((len(hierarchy.cells), size, size))
    start = 0
    for rows in rows_at_positions:
        lower[:, start : start + rows.shape[1], : rows.shape[2]] = rows
        start += rows.shape[1]
    lower = np.tril(lower)
    return lower + np.tril(lower, -1).transpose(0, 2, 1)
