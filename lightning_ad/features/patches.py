"""Locally aware patch features (PatchCore, section 3.1) from the maps of several layers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_features(
    maps: Sequence[Tensor], patch_size: int, layer_dimension: int | None, dimension: int | None
) -> Tensor:
    """Returns one vector for each position of the first map's grid.

    With dimensions, as released: the values of each patch (channels x patch x patch) are pooled to
    `layer_dimension` numbers, and those of all layers, one after the other, to `dimension`. Without
    (both None), as in later re-implementations: the patch is averaged for each channel, and the
    layers are concatenated.

    Args:
        maps: [B, C_l, h_l, w_l] of each layer; deeper ones are brought to the first one's grid,
            bilinear.
        patch_size: side of the neighbourhood, odd; zeros outside the map count.
        layer_dimension: length of each layer's vector, or None.
        dimension: length of the result, or None.

    Returns:
        [B, h_0 * w_0, D], rows of the grid one after the other.
    """
    grid = maps[0].shape[-2:]
    if layer_dimension is None or dimension is None:
        averages = [F.avg_pool2d(level, patch_size, 1, patch_size // 2) for level in maps]
        return torch.cat([_to_grid(level, grid) for level in averages], 1).flatten(2).mT
    # Pooling mixes values, the resize mixes positions: pooling first is the same, and a fraction of
    # the numbers is resized.
    layers = [_to_grid(_pooled_patches(level, patch_size, layer_dimension), grid) for level in maps]
    return F.adaptive_avg_pool1d(torch.cat(layers, 1).flatten(2).mT, dimension)


def _pooled_patches(maps: Tensor, patch_size: int, length: int) -> Tensor:
    """Pools each position's neighbourhood channel by channel: [B, C, h, w] to [B, length, h, w]."""
    patches = F.unfold(maps, patch_size, padding=patch_size // 2)
    pooled = F.adaptive_avg_pool1d(patches.mT, length).mT
    return pooled.reshape(len(maps), length, *maps.shape[-2:])


def _to_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    if maps.shape[-2:] == grid:
        return maps
    return F.interpolate(maps, grid, mode="bilinear", align_corners=False)
