import pytest
import torch
from torchvision.transforms.v2 import CenterCrop, Resize

from lightning_ad.data.geometry import Geometry
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


@pytest.mark.parametrize("shape", [(98, 196), (196, 98), (97, 31), (61, 90), (403, 222), (90, 90)])
def test_sizes_and_crops_round_as_torchvisions(shape):
    rows = torch.arange(shape[0]).expand(shape[1], -1).T / shape[0]
    image = torch.stack([rows, torch.arange(shape[1]).expand(shape) / shape[1], rows])
    theirs = CenterCrop(24)(Resize(31)(image))
    torch.testing.assert_close(Geometry.of(31, 24).image(image), theirs, rtol=0, atol=1e-6)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[shape[0] // 2 :, shape[1] // 3 :] = True
    resized = Geometry.of(31, 31)._target_size(*shape)
    assert Resize(31)(image).shape[1:] == resized
    map = Geometry.of(31, 24).restore(theirs[0], *shape)
    assert (map - image[0]).nanmean().abs() < 0.005  # a pixel that is off is 0.03


@pytest.mark.parametrize(
    ("shape", "torchvisions", "earlier"),
    [((98, 196), (256, 512), (256, 511)), ((196, 98), (512, 256), (511, 256))],
)
def test_runs_from_before_keep_their_rounding(shape, torchvisions, earlier):
    assert Geometry.of(256, 224)._target_size(*shape) == torchvisions
    before = Geometry.of(256, 224, None)
    assert before._target_size(*shape) == earlier
    assert before._corner((256, 343)) == (16, 59)
    assert Geometry.of(256, 224)._corner((256, 343)) == (16, 60)


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
