"""Patch features against the released order of steps, and by hand."""

import pytest
import torch
import torch.nn.functional as F

from lightning_ad.features.patches import patch_features


def by_the_book(maps, patch, layer_dimension, dimension):
    """The released order of steps: unfold, resize every value, pool, stack, pool."""
    height, width = maps[0].shape[-2:]
    layers = []
    for m in maps:
        batch, channels = m.shape[:2]
        values = F.unfold(m, patch, padding=patch // 2).view(
            batch, channels * patch**2, *m.shape[-2:]
        )
        values = F.interpolate(values, (height, width), mode="bilinear", align_corners=False)
        vectors = values.permute(0, 2, 3, 1).reshape(-1, 1, channels * patch**2)
        layers.append(F.adaptive_avg_pool1d(vectors, layer_dimension)[:, 0])
    stacked = torch.stack(layers, 1).reshape(-1, 1, len(maps) * layer_dimension)
    return F.adaptive_avg_pool1d(stacked, dimension)[:, 0].view(
        len(maps[0]), height * width, dimension
    )


@pytest.mark.parametrize(("layer_dimension", "dimension"), [(1024, 1024), (100, 70), (16, 16)])
def test_patch_features_equal_the_released_order_of_steps(layer_dimension, dimension):
    maps = [torch.rand(2, 12, 8, 6), torch.rand(2, 20, 4, 3)]
    expected = by_the_book(maps, 3, layer_dimension, dimension)
    torch.testing.assert_close(patch_features(maps, 3, layer_dimension, dimension), expected)


def test_concatenated_patches_are_averages():
    maps = [torch.rand(1, 2, 5, 5), torch.rand(1, 3, 5, 5)]
    features = patch_features(maps, 3, None, None).view(5, 5, 5)
    assert features[2, 2, 0] == pytest.approx(maps[0][0, 0, 1:4, 1:4].mean().item())
    assert features[0, 0, 4] == pytest.approx(maps[1][0, 2, :2, :2].sum().item() / 9)
