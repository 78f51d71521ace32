"""Perlin noise for a whole batch on any device, equal to perlin-numpy given the same gradients."""

import math

import torch
from torch import Tensor


def perlin_noise(angles: Tensor, cells: Tensor, height: int, width: int) -> Tensor:
    """Makes noise as `perlin_numpy.generate_perlin_noise_2d` does, one grid for each row.

    That is with quintic fade, scaled by sqrt(2). The gradient at a node is (cos, sin) of its angle
    along (height, width). Along each axis a pixel takes the values V of its two nodes, weighted by
    the fade, and their slopes G, weighted by its distance as well. So the noise is
    sqrt(2) (G_y cos V_x' + V_y sin G_x'): four matrix products a row.

    Args:
        angles: the gradients' angles in radians, float [B, n, m]; row b uses the first
            cells[b] + 1 along each axis.
        cells: int [B, 2], noise cells along height and width; at most n - 1 and m - 1.
        height: in pixels.
        width: in pixels.

    Returns:
        float [B, height, width].
    """
    value_y, slope_y = _weights(cells[:, 0], angles.shape[1], height, angles.dtype)
    value_x, slope_x = _weights(cells[:, 1], angles.shape[2], width, angles.dtype)
    along_height = slope_y @ angles.cos() @ value_x.mT
    along_width = value_y @ angles.sin() @ slope_x.mT
    return math.sqrt(2) * (along_height + along_width)


def _weights(cells: Tensor, nodes: int, pixels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns the weights of each node's value and slope for each pixel, [B, pixels, nodes]."""
    place = torch.arange(pixels, device=cells.device) * cells[:, None]
    node = (place // pixels)[..., None]
    t = ((place % pixels).to(dtype) / pixels)[..., None]
    fade = t * t * t * (t * (t * 6 - 15) + 10)
    value = torch.zeros(len(cells), pixels, nodes, dtype=dtype, device=cells.device)
    slope = value.clone()
    value.scatter_(2, node, 1 - fade)
    value.scatter_(2, node + 1, fade)
    slope.scatter_(2, node, (1 - fade) * t)
    slope.scatter_(2, node + 1, fade * (t - 1))
    return value, slope
