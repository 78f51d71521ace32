"""From a grid of scores to an anomaly map at the size of the input."""

import torch
import torch.nn.functional as F
from torch import Tensor


def score_map(scores: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Scores of a grid [B, h, w] to maps [B, height, width]: bilinear, then a Gaussian of `sigma` pixels."""
    maps = F.interpolate(scores[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
    return gaussian_blur(maps, sigma) if sigma > 0 else maps


def gaussian_blur(maps: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Gaussian filter of maps [B, H, W], equal to SciPy's `gaussian_filter` (mirrored edges, edge pixel repeated)."""
    radius = int(truncate * sigma + 0.5)
    x = torch.arange(-radius, radius + 1, device=maps.device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(maps.dtype)
    rows = maps[:, _mirrored(maps.shape[1], radius, maps.device)]
    maps = F.conv2d(rows[:, None], kernel[None, None, :, None])[:, 0]
    columns = maps[:, :, _mirrored(maps.shape[2], radius, maps.device)]
    return F.conv2d(columns[:, None], kernel[None, None, None])[:, 0]


def _mirrored(length: int, radius: int, device: torch.device) -> Tensor:
    """Indices -radius .. length + radius - 1 folded into 0 .. length - 1 as d c b a | a b c d | d c b a."""
    index = torch.arange(-radius, length + radius, device=device) % (2 * length)
    return torch.where(index < length, index, 2 * length - 1 - index)
