"""From maps of features to their means, and from a grid of scores to an anomaly map at the size of the input."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.system.threads import map_single_threaded


def score_map(
    scores: Tensor, height: int, width: int, sigma: float, ignore: Tensor | None = None
) -> Tensor:
    """Scores of a grid [B, h, w] to maps [B, height, width]: bilinear, then a Gaussian of `sigma` pixels.

    Both are linear, and separable into rows and columns: together they are a product from each side, which costs
    less than a resize. Cells and pixels that are ignored (bool [B, height, width]) are hidden: no score spreads from
    them.
    """
    scores = hide(scores if scores.dtype == torch.float64 else scores.float(), ignore)
    return hide(_enlarged(scores, height, width, sigma), ignore)


def _enlarged(scores: Tensor, height: int, width: int, sigma: float) -> Tensor:
    if sigma <= 0:
        return F.interpolate(
            scores[:, None], (height, width), mode="bilinear", align_corners=False
        )[:, 0]
    rows = _axis(scores.shape[1], height, sigma).to(scores)
    columns = _axis(scores.shape[2], width, sigma).T.to(scores)
    with torch.autocast(scores.device.type, enabled=False):
        if scores.device.type != "cpu" or not len(scores):
            return rows @ scores @ columns
        return torch.stack(map_single_threaded(lambda grid: rows @ grid @ columns, scores.unbind()))


def hide(scores: Tensor, ignore: Tensor | None) -> Tensor:
    """Scores of a grid [B, h, w], those that are ignored as low as the lowest of their image that is not.

    Args:
        scores: finite.
        ignore: bool [B, H, W]; a cell of the grid is ignored where more than half of it is. None for nowhere.

    Returns:
        Scores of the same shape; zeros for an image that is ignored everywhere.
    """
    if ignore is None:
        return scores
    cells = ignore
    if ignore.shape != scores.shape:
        cells = F.adaptive_avg_pool2d(ignore[:, None].float(), list(scores.shape[1:]))[:, 0] > 0.5
    lowest = scores.masked_fill(cells, torch.inf).amin((1, 2), keepdim=True)
    return torch.where(cells, lowest.masked_fill(cells.all((1, 2), keepdim=True), 0), scores)


def spatial_mean(maps: Tensor) -> Tensor:
    """Means over the positions of maps [B, C, h, w]: float32 [B, C], the same bits in any batch."""
    if maps.device.type != "cpu" or not len(maps):
        return maps.float().mean((2, 3))
    return torch.stack(map_single_threaded(lambda one: one.float().mean((1, 2)), maps.unbind()))


@lru_cache(maxsize=32)
def _axis(length: int, size: int, sigma: float) -> Tensor:
    """What `size` pixels along an axis are of `length` scores: float64 [size, length], the rows sum to 1."""
    with torch.inference_mode(False), torch.no_grad():
        identity = torch.eye(length, dtype=torch.float64)
        resized = F.interpolate(
            identity[None, None], (size, length), mode="bilinear", align_corners=False
        )[0, 0]
        return _gaussian_blur(resized, sigma)


def _gaussian_blur(values: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Blurs float64 [N, K] along N, equal to SciPy's `gaussian_filter1d` (mirrored edges, edge value repeated)."""
    radius = int(truncate * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel /= kernel.sum()
    period = 2 * len(values)
    index = torch.arange(-radius, len(values) + radius) % period
    mirrored = values[torch.where(index < len(values), index, period - 1 - index)]
    return sum(weight * mirrored[k : k + len(values)] for k, weight in enumerate(kernel.tolist()))  # type: ignore
