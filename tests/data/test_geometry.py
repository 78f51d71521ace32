import numpy as np
import pytest
import torch
from PIL import Image

from lightning_ad.data.geometry import Geometry, resize
from lightning_ad.errors import UsageError


@pytest.mark.parametrize(
    ("size", "crop", "shape", "expected"),
    [
        (32, None, (40, 60), (32, 32)),
        ([24, 48], None, (40, 60), (24, 48)),
        (32, 28, (40, 60), (28, 28)),
        (32, [16, 24], (60, 40), (16, 24)),
        (32, 32, (97, 31), (32, 32)),
    ],
)
def test_output(size, crop, shape, expected):
    geometry = Geometry.of(size, crop)
    assert geometry.output == expected
    assert geometry.image(torch.rand(3, *shape)).shape == (3, *expected)
    assert geometry.mask(torch.rand(shape) > 0.5).shape == expected


def test_resize_is_pillows_antialiased_bilinear():
    array = np.random.default_rng(0).random((61, 83), dtype=np.float32)
    for height, width in ((20, 30), (90, 100)):
        ours = resize(torch.from_numpy(array)[None], height, width)[0].numpy()
        pillows = np.asarray(
            Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR)
        )
        np.testing.assert_allclose(ours, pillows, atol=1e-5)


def test_image_and_mask_stay_together():
    mask = torch.zeros(90, 150, dtype=torch.bool)
    mask[30:60, 50:80] = True
    for geometry in (Geometry.of(64, None), Geometry.of(48, 40), Geometry.of([30, 50], [30, 30])):
        image = geometry.image(mask.float().expand(3, -1, -1))[0]
        ours, antialiased = geometry.mask(mask), image > 0.5
        assert (ours & antialiased).sum() > 0.9 * (ours | antialiased).sum()
        centres = [m.nonzero().float().mean(0) for m in (ours, antialiased)]
        torch.testing.assert_close(*centres, atol=0.51, rtol=0)


def test_with_a_crop_one_number_is_the_shorter_side():
    circle = (
        (torch.arange(200)[:, None] - 100) ** 2 + (torch.arange(400) - 200) ** 2 < 60**2
    ).float()
    cropped = Geometry.of(100, 80).image(circle.expand(3, -1, -1))[0]
    assert cropped.sum(0).gt(20).sum().item() == pytest.approx(
        cropped.sum(1).gt(20).sum().item(), abs=1
    )


@pytest.mark.parametrize(
    ("size", "crop"), [(0, None), ([32], None), ([1, 2, 3], None), (32, 40), ([32, 64], 48)]
)
def test_impossible_sizes(size, crop):
    with pytest.raises(UsageError, match=r"data\.(image_size|center_crop)"):
        Geometry.of(size, crop)
