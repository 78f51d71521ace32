import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from lightning_ad.data.augmenters import AUGMENTERS, PARAMETERS, augment, draw_augmenters


def rng(*seed):
    return np.random.default_rng(seed)


def apply_one(name, image, *parameters):
    table = torch.zeros(1, PARAMETERS)
    table[0, : len(parameters)] = torch.tensor(parameters)
    return AUGMENTERS[name].apply(image[None], table)[0]


@pytest.fixture
def picture():
    """An 8-bit picture, so that Pillow is a reference."""
    return rng(5).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def tensor(array):
    return torch.from_numpy(np.asarray(array).astype(np.float32) / 255).permute(2, 0, 1)


def test_augmenters_equal_pillow(picture):
    image, pillow = tensor(picture), Image.fromarray(picture)
    assert torch.equal(apply_one("invert", image), 1 - image)
    torch.testing.assert_close(
        apply_one("autocontrast", image, 0.0),
        tensor(ImageOps.autocontrast(pillow)),
        atol=2 / 255,
        rtol=0,
    )
    cut = tensor(ImageOps.autocontrast(pillow, cutoff=10))
    assert (cut - tensor(ImageOps.autocontrast(pillow))).abs().max() > 10 / 255
    torch.testing.assert_close(apply_one("autocontrast", image, 0.1), cut, atol=3 / 255, rtol=0)
    torch.testing.assert_close(
        apply_one("solarize", image, 100 / 255, 1.0),
        tensor(ImageOps.solarize(pillow, 100)),
        atol=1e-6,
        rtol=0,
    )
    torch.testing.assert_close(apply_one("solarize", image, 100 / 255, 0.0), image)
    inner = (slice(None), slice(1, -1), slice(1, -1))
    sharp = tensor(ImageEnhance.Sharpness(pillow).enhance(1.7))
    torch.testing.assert_close(
        apply_one("sharpness", image, 1.7)[inner], sharp[inner], atol=2 / 255, rtol=0
    )
    equal = tensor(ImageOps.equalize(pillow))
    assert (equal - image).abs().max() > 10 / 255
    torch.testing.assert_close(apply_one("equalize", image), equal, atol=2 / 255, rtol=0)
    middle = (slice(None), *(slice(side // 4, -(side // 4)) for side in picture.shape[:2]))
    turned = tensor(pillow.rotate(20, Image.Resampling.BILINEAR))
    torch.testing.assert_close(
        apply_one("rotate", image, 20.0)[middle], turned[middle], atol=3 / 255, rtol=0
    )


def test_augmenters_equal_hand_computed_values(picture):
    image = tensor(picture)
    torch.testing.assert_close(apply_one("gamma", image, 0.5, 1.0, 2.0)[0], image[0].sqrt())
    torch.testing.assert_close(apply_one("gamma", image, 0.5, 1.0, 2.0)[2], image[2].square())
    grey = torch.full((3, 2, 2), 0.5)
    torch.testing.assert_close(apply_one("brightness", grey, 1.2, 0.1), torch.full((3, 2, 2), 0.7))
    red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    torch.testing.assert_close(
        apply_one("hue and saturation", red, 1 / 3, 0.0).flatten(), torch.tensor([0.0, 1, 0])
    )
    between_levels = torch.tensor([0.0, 127.4, 127.6, 255.0]).expand(3, 1, 4) / 255
    halves = apply_one("posterize", between_levels, 1.0)[0, 0] * 255
    assert halves.tolist() == [0.0, 0.0, 128.0, 128.0]


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_zeroes_the_low_bits_as_pillow_does(bits):
    every_value = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pillow = ImageOps.posterize(Image.fromarray(every_value), bits)
    found = apply_one("posterize", tensor(every_value[..., None].repeat(3, 2)), float(bits))
    torch.testing.assert_close(found[0], torch.from_numpy(np.asarray(pillow) / 255).float())


def test_a_row_of_a_batch_is_augmented_as_if_alone(picture):
    images = torch.stack([tensor(picture)] * 6)
    draws = [draw_augmenters(rng(i), 3) for i in range(6)]
    kinds, parameters = (torch.from_numpy(np.stack(column)) for column in zip(*draws, strict=True))
    together = augment(images, kinds, parameters)
    for i in range(6):
        alone = augment(images[i : i + 1], kinds[i : i + 1], parameters[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
    assert together.min() >= 0
    assert together.max() <= 1


def test_augmenters_drawn_are_distinct():
    for i in range(50):
        assert len(set(draw_augmenters(rng(i), 3)[0].tolist())) == 3
