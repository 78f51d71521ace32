"""Anomaly maps against SciPy's blur, and what is ignored by hand."""

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from lightning_ad.features.maps import hide, score_map, spatial_mean


@pytest.mark.parametrize(
    ("height", "width", "sigma"), [(224, 224, 4.0), (50, 31, 4.0), (9, 12, 4.0), (40, 40, 0.7)]
)
def test_score_map_is_a_bilinear_resize_and_scipys_blur(height, width, sigma):
    scores = torch.rand(2, 7, 5, dtype=torch.float64)
    resized = F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)[0]
    for ours, raw in zip(score_map(scores, height, width, sigma), resized, strict=True):
        expected = torch.from_numpy(gaussian_filter(raw.numpy(), sigma))
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_score_map_without_blur_is_bilinear():
    scores = torch.rand(1, 4, 4)
    expected = F.interpolate(scores[None], (8, 8), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(score_map(scores, 8, 8, 0.0), expected)


def test_ignored_cells_are_as_low_as_the_lowest_other():
    scores = torch.tensor([[[5.0, 1.0], [3.0, 9.0]]]).repeat(2, 1, 1)
    ignore = torch.zeros(2, 4, 4, dtype=torch.bool)
    ignore[0, :2, 2:] = True  # the cell that holds 1
    ignore[0, 2:, 2] = True  # half of the cell that holds 9: not enough
    ignore[1] = True
    assert hide(scores, ignore).tolist() == [[[5, 3], [3, 9]], [[0, 0], [0, 0]]]
    assert hide(scores, None) is scores


def test_no_score_spreads_from_ignored_pixels():
    scores = torch.zeros(1, 8, 8)
    scores[0, 0, 0] = 100.0
    ignore = torch.zeros(1, 32, 32, dtype=torch.bool)
    ignore[0, :8, :8] = True
    assert (score_map(scores, 32, 32, 2.0, ignore) == 0).all()
    assert (score_map(scores, 32, 32, 2.0)[~ignore] > 0).any()


def test_spatial_means_are_the_same_bits_in_any_batch():
    maps = torch.rand(5, 7, 9, 11)
    together = spatial_mean(maps)
    torch.testing.assert_close(together, maps.mean((2, 3)))
    for one, mean in zip(maps.split(1), together, strict=True):
        assert torch.equal(spatial_mean(one)[0], mean)
    assert spatial_mean(maps[:0]).shape == (0, 7)
