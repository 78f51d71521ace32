"""Means of feature maps, and anomaly maps at the size of the input from grids of scores."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.system.threads import map_single_threaded


def score_map(
    scores: Tensor, height: int, width: int, sigma: float, ignore: Tensor | None = None
) -> Tensor:
    """Enlarges a grid of scores to an anomaly map: bilinear, then blurred by a Gaussian.

    Both are linear, and separable into rows and columns: together they are a product from each
    side, which costs less than a resize.

    Args:
        scores: [B, h, w].
        height: of the map.
        width: of the map.
        sigma: of the Gaussian, in pixels of the map; 0 for none.
        ignore: bool [B, height, width], cells and pixels from which no score spreads (see `hide`).

    Returns:
        [B, height, width], float64 if the scores are, else float32.
    """
    if scores.dtype != torch.float64:
        scores = scores.float()
    enlarged = _enlarged(hide(scores, ignore), height, width, sigma)
    return hide(enlarged, ignore)


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
        enlarged = map_single_threaded(lambda grid: rows @ grid @ columns, scores.unbind())
        return torch.stack(enlarged)


def hide(scores: Tensor, ignore: Tensor | None) -> Tensor:
    """Makes ignored scores as low as the lowest of their image that is not ignored.

    Args:
        scores: a grid [B, h, w], finite.
        ignore: bool [B, H, W]; a cell of the grid is ignored if more than half of it is. None if
            nothing is.

    Returns:
        Scores of the same shape; zeros for an image that is ignored everywhere.
    """
    if ignore is None:
        return scores
    cells = ignore
    if ignore.shape != scores.shape:
        grid = list(scores.shape[1:])
        shares = F.adaptive_avg_pool2d(ignore[:, None].float(), grid)
        cells = shares[:, 0] > 0.5
    lowest = scores.masked_fill(cells, torch.inf).amin((1, 2), keepdim=True)
    everywhere = cells.all((1, 2), keepdim=True)
    return torch.where(cells, lowest.masked_fill(everywhere, 0), scores)


def spatial_mean(maps: Tensor) -> Tensor:
    """Averages maps [B, C, h, w] over positions: float32 [B, C], the same bits in any batch."""
    if maps.device.type != "cpu" or not len(maps):
        return maps.float().mean((2, 3))
    means = map_single_threaded(lambda one: one.float().mean((1, 2)), maps.unbind())
    return torch.stack(means)


@lru_cache(maxsize=32)
def _axis(length: int, size: int, sigma: float) -> Tensor:
    """Returns the weights of `length` scores for each of `size` pixels along an axis.

    Float64 [size, length]; the rows sum to 1.
    """
    with torch.inference_mode(False), torch.no_grad():
        identity = torch.eye(length, dtype=torch.float64)
        resized = F.interpolate(
            identity[None, None], (size, length), mode="bilinear", align_corners=False
        )[0, 0]
        return _gaussian_blur(resized, sigma)


def _gaussian_blur(values: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Blurs float64 [N, K] along N, as SciPy's `gaussian_filter1d` does in its mode `reflect`.

    Edges are mirrored, and the edge value is repeated.
    """
    radius = int(truncate * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel /= kernel.sum()
    length = len(values)
    period = 2 * length
    index = torch.arange(-radius, length + radius) % period
    mirrored = values[torch.where(index < length, index, period - 1 - index)]
    blurred = torch.zeros_like(values)
    for start, weight in enumerate(kernel.tolist()):
        blurred += weight * mirrored[start : start + length]
    return blurred
