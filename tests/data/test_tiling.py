"""Tiles: where they lie, and the weights by which their maps become one."""

import numpy as np
import pytest

from lightning_ad.data.tiling import Tiles, blending_weights, tile_offsets
from lightning_ad.errors import UsageError


def test_a_large_image_is_covered_as_by_hand():
    tiles = Tiles.of((3000, 4000), 512, 128)
    tops = [0, 384, 768, 1152, 1536, 1920, 2304, 2488]
    lefts = [0, 384, 768, 1152, 1536, 1920, 2304, 2688, 3072, 3456, 3488]
    assert tiles.origins == [(top, left) for top in tops for left in lefts]
    assert len(tiles) == 88
    assert tile_offsets(896, 512, 128) == [0, 384]  # fits exactly


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(200, 64, 32), (210, 64, 32), (129, 128, 96), (300, 128, 96)]
)
def test_weights_sum_to_one_and_a_cut_view_counts_for_nothing(length, tile, overlap):
    offsets = tile_offsets(length, tile, overlap)
    weights = blending_weights(offsets, tile, overlap)
    total, margin = np.zeros(length), overlap // 3
    for offset, weight in zip(offsets, weights.double().numpy(), strict=True):
        total[offset : offset + tile] += weight
        assert offset == 0 or (weight[:margin] == 0).all()
        assert offset + tile == length or (weight[-margin:] == 0).all()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (weights >= 0).all()


def test_the_handover_is_a_smooth_step():
    first, second = blending_weights([0, 160], 256, 96).double().numpy()
    x = (np.arange(32) + 0.5) / 32
    expected = np.concatenate([np.zeros(32), 3 * x**2 - 2 * x**3, np.ones(32)])
    np.testing.assert_allclose(second[:96], expected, atol=1e-7)
    np.testing.assert_allclose(first[160:], 1 - expected, atol=1e-7)
    assert (first[:160] == 1).all()
    assert (second[96:] == 1).all()


def test_a_tile_is_no_larger_than_its_image():
    tiles = Tiles.of((40, 90), 96, 32)
    assert tiles.shape == (40, 90)
    narrow = Tiles.of((40, 150), 96, 32)
    assert narrow.shape == (40, 96)
    assert narrow.origins == [(0, 0), (0, 54)]


@pytest.mark.parametrize(
    ("tile", "overlap", "flag"),
    [
        (100, 32, "tile"),
        (32, 32, "tile"),
        *((128, overlap, "tile_overlap") for overlap in (0, 50, 128)),
    ],
)
def test_impossible_tiles(tile, overlap, flag):
    with pytest.raises(UsageError, match=rf"data\.{flag}: .* multiple of 32"):
        Tiles.of((300, 400), tile, overlap)
