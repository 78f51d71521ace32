import numpy as np
import pytest
import torch
from PIL import Image

from lightning_ad.data.geometry import Geometry
from lightning_ad.data.reading import read_image, read_mask
from lightning_ad.errors import DataError


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options)
    return str(path)


def test_rgb_keeps_its_order(tmp_path):
    array = np.zeros((2, 3, 3), np.uint8)
    array[0, 1] = (255, 51, 0)
    image = read_image(save(tmp_path / "a.png", array))
    assert image.shape == (3, 2, 3)
    assert image.dtype == torch.float32
    assert image[:, 0, 1].tolist() == pytest.approx([1.0, 0.2, 0.0])


def test_grey_becomes_three_equal_channels(tmp_path):
    image = read_image(save(tmp_path / "a.png", np.array([[0, 51]], np.uint8)))
    assert image[:, 0, 1].tolist() == pytest.approx([0.2] * 3)


@pytest.mark.parametrize(("size", "crop"), [(20, None), (20, 16), ([37, 53], None), (64, None)])
def test_a_grey_image_is_that_of_its_three_channels(tmp_path, size, crop):
    array = np.random.default_rng(0).integers(0, 256, (37, 53), np.uint8)
    geometry = Geometry.of(size, crop)
    grey, colour = (
        geometry.image(read_image(save(tmp_path / f"{name}.png", values)))
        for name, values in (("grey", array), ("colour", np.stack([array] * 3, 2)))
    )
    assert torch.equal(grey, colour)
    assert grey.is_contiguous()


def test_16_bits_are_scaled_not_clipped(tmp_path):
    image = read_image(save(tmp_path / "a.png", np.array([[0, 6553, 65535]], np.uint16)))
    assert image[0, 0].tolist() == pytest.approx([0.0, 6553 / 65535, 1.0])


def test_alpha_is_dropped(tmp_path):
    image = read_image(save(tmp_path / "a.png", np.array([[[255, 0, 102, 0]]], np.uint8)))
    assert image[:, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.4])


def test_exif_rotation_is_applied(tmp_path):
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "a.png", exif=exif)
    assert read_image(str(tmp_path / "a.png")).shape == (3, 3, 2)


def test_unreadable_files_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    save(whole, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    cut, text = tmp_path / "cut.png", tmp_path / "text.png"
    cut.write_bytes(whole.read_bytes()[:500])
    text.write_text("not an image")
    for path in (cut, text, tmp_path / "missing.png"):
        with pytest.raises(DataError, match=path.name):
            read_image(str(path))


def test_mask_threshold_and_anti_aliasing(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 100, 127, 128, 255]], np.uint8))
    assert read_mask(path, (1, 5)).tolist() == [[False, False, False, True, True]]
    assert read_mask(path, (1, 5), threshold=0).tolist() == [[False, True, True, True, True]]


def test_mask_of_another_size_names_both(tmp_path):
    path = save(tmp_path / "m.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(DataError, match=r"m\.png is 6x4 px, its image 8x4 px"):
        read_mask(path, (4, 8))


def test_mask_of_class_numbers_is_not_taken_for_empty(tmp_path):
    with pytest.raises(DataError, match="values up to 3, none above 127"):
        read_mask(save(tmp_path / "m.png", np.array([[0, 3]], np.uint8)), (1, 2))
    assert not read_mask(save(tmp_path / "n.png", np.zeros((1, 2), np.uint8)), (1, 2)).any()


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.5])
def test_floats_that_are_no_shares_are_refused(value, tmp_path):
    array = np.full((4, 5), 0.5, np.float32)
    array[2, 3] = value
    Image.fromarray(array).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff holds floats .* expected values in \[0, 1\]"):
        read_image(str(tmp_path / "a.tiff"))
