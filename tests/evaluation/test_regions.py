"""Region weights: every region weighs 1, wherever it lies and however large it is."""

import pytest
import torch

from lightning_ad.evaluation import region_weights


def test_every_region_weighs_one():
    mask = torch.zeros(3, 6, 6, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True  # touch at a corner: one region
    mask[0, 4:, 4:] = True
    mask[1, 5, 5] = True  # below a region of the image before: another one
    weights = region_weights(mask)
    assert weights.dtype == torch.float32
    assert weights.sum((1, 2)).tolist() == pytest.approx([2, 1, 0])
    assert weights[0, 0, 0] == weights[0, 1, 1] == 0.5
    assert weights[0, 5, 5] == 0.25
    assert (weights[~mask] == 0).all()


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 4, 4)])
@pytest.mark.parametrize("value", [True, False])
def test_extremes(shape, value):
    weights = region_weights(torch.full(shape, value))
    assert weights.shape == shape
    assert weights.sum() == pytest.approx(shape[0] * value)


def test_bad_masks_are_refused():
    with pytest.raises(TypeError, match=r"mask > 0\.5"):
        region_weights(torch.rand(1, 4, 4))
    with pytest.raises(ValueError, match=r"\[B, H, W\]"):
        region_weights(torch.zeros(4, 4, dtype=torch.bool))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_stays_on_the_device():
    mask = torch.ones(1, 4, 4, dtype=torch.bool, device="cuda")
    assert region_weights(mask).device == mask.device
