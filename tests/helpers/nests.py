"""Maps on grids that lie in one another, and the same as NumPy and SciPy want them."""

import numpy as np
import torch
import torch.nn.functional as F

from lightning_ad.statistics.grid_hierarchy import Nesting
from lightning_ad.statistics.moments import Moments

DIMENSIONS = [4, 3, 2]  # of the coarsest level first
GRIDS = {
    "dividing": [(2, 3), (4, 6), (8, 12)],
    "not dividing": [(2, 4), (4, 7), (7, 13)],
    "cut": [(5, 4), (7, 9), (18, 19)],
    "finer than the positions": [(2, 2), (9, 9), (5, 5)],
    "one": [(3, 3)],
}


def nest(grids):
    return Nesting(grids, DIMENSIONS[: len(grids)], grids[-1])


def levels(grids, images=20, seed=0):
    """Maps [N, h w, d] with as many dimensions as DIMENSIONS says, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        torch.rand(images, h * w, d, generator=generator)
        for (h, w), d in zip(grids, DIMENSIONS, strict=False)
    ]
    return [(values + values.mean(2, keepdim=True)).square() + 10 for values in drawn]


def replicated(maps, grids):
    """The vectors [N, P, D] of the last grid's positions."""
    whole = []
    for values, (height, width) in zip(maps, grids, strict=True):
        grid = values.mT.unflatten(2, (height, width))
        whole.append(F.interpolate(grid, grids[-1], mode="nearest").flatten(2).mT)
    return torch.cat(whole, 2).double().numpy()


def observed(nested, maps, sizes, dtype=torch.float64):
    moments = Moments(nested, dtype)
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
