"""AUPRO by its definition, to compare ours with."""

from itertools import pairwise

import numpy as np
from scipy import ndimage


def slow_aupro(maps, masks, limit, kept=None):
    """MVTec's definition, word for word, in float64.

    Args:
        maps: [N, H, W].
        masks: bool [N, H, W].
        limit: of the false-positive rate.
        kept: bool [N, H, W], the pixels that count; None for all.
    """
    if kept is None:
        kept = np.ones_like(masks)
    maps = maps.astype(np.float64)
    masks = masks & kept
    regions = []
    for values, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [values[labels == number] for number in range(1, count + 1)]
    good = maps[kept & ~masks]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps[kept])[::-1]:
        overlaps = [(region >= threshold).mean() for region in regions]
        points.append(((good >= threshold).mean(), np.mean(overlaps)))
    return area_up_to(limit, points)


def area_up_to(limit, points):
    """The mean height of the line through points from x = 0 to the limit."""
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 > limit:
            area += (limit - x0) * (y0 + y0 + (y1 - y0) * (limit - x0) / (x1 - x0)) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit
