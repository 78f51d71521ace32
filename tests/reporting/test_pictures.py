import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from lightning_ad.reporting import pictures

RNG = np.random.default_rng(0)
MASKS = [
    RNG.random((23, 31)) > 0.9,
    ndimage.gaussian_filter(RNG.normal(size=(40, 30)), 3) > 0.02,
    np.zeros((5, 7), bool),
    np.ones((5, 7), bool),
    np.ones((1, 1), bool),
]


@pytest.mark.parametrize("mask", MASKS)
def test_outline_is_what_dilation_adds(mask):
    grown = ndimage.binary_dilation(mask, np.ones((3, 3)))
    cut = mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), border_value=0)
    at_edge = cut & ~ndimage.binary_erosion(np.ones_like(mask), np.ones((3, 3)), border_value=0)
    assert np.array_equal(pictures.outline(mask), (grown & ~mask) | at_edge)


@pytest.mark.parametrize("mask", MASKS)
def test_outline_path_bounds_the_mask(mask):
    """Crossing the path's vertical edges from the left switches between outside and inside."""
    crossings = np.zeros((mask.shape[0], mask.shape[1] + 1), bool)
    for x, y, length in re.findall(r"M(\d+) (\d+)v(\d+)", pictures.outline_path(mask)):
        crossings[int(y) : int(y) + int(length), int(x)] ^= True
    assert np.array_equal(np.logical_xor.accumulate(crossings, 1)[:, :-1], mask)
    edges = np.abs(np.diff(np.pad(mask, 1).astype(int), axis=0)).sum()
    assert sum(int(n) for n in re.findall(r"h(\d+)", pictures.outline_path(mask))) == edges


def test_heat_clamps_and_opacity_rises():
    ramp = torch.linspace(-1, 2, 301)[None]
    heat = pictures.heat(ramp, 0.0, 1.0)
    assert heat.dtype == np.uint8
    assert heat.shape == (1, 301, 3)
    assert np.array_equal(heat[0, 0], pictures.COLOURS[0])
    assert np.array_equal(heat[0, -1], pictures.COLOURS[-1])
    opacity = pictures.opacity(heat)[0]
    assert opacity[:101].max() == 0
    assert opacity[-1] == 1
    assert (np.diff(opacity) >= 0).all()


def test_constant_heat():
    assert (pictures.heat(np.ones((3, 3), np.float32), 1.0, 1.0) == pictures.COLOURS[0]).all()


def test_overlay_keeps_the_part_where_scores_are_low():
    image = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    map = np.zeros((8, 8), np.float32)
    map[2:4, 2:4] = 1
    heat = pictures.heat(map, 0, 1)
    shown = pictures.overlay(image, heat, strength=1.0)
    assert np.array_equal(shown[map == 0], image[map == 0])
    assert np.array_equal(shown[map == 1], heat[map == 1])
    assert np.array_equal(pictures.overlay(image, heat, strength=0.0), image)


def test_draw_outline_leaves_its_input():
    image = np.zeros((6, 6, 3), np.uint8)
    mask = np.zeros((6, 6), bool)
    mask[2:4, 2:4] = True
    drawn = pictures.draw_outline(image, mask, (1, 2, 3))
    assert not image.any()
    assert (drawn[pictures.outline(mask)] == (1, 2, 3)).all()
    assert not drawn[mask].any()


def test_thumbnails():
    assert pictures.thumbnail(np.zeros((300, 100, 3), np.uint8), 60).shape == (60, 20, 3)
    assert pictures.thumbnail(np.zeros((30, 10, 4), np.uint8), 60).shape == (30, 10, 4)
    crack = np.zeros((300, 100), bool)
    crack[:, 50] = True
    assert pictures.thumbnail_mask(crack, 60, 20).any(1).all()


@pytest.mark.parametrize("format", ["jpeg", "webp", "png"])
def test_data_uri_is_an_image(format):
    image = np.full((9, 7, 3), 100, np.uint8)
    head, _, body = pictures.data_uri(image, format).partition(",")
    assert head == f"data:image/{format};base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as back:
        assert np.abs(np.asarray(back.convert("RGB")).astype(int) - image).max() < 6


def test_hatched_where_the_mask_is_and_nowhere_else():
    image = np.full((20, 30, 3), 200, np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:20] = True
    drawn = pictures.hatch(image, mask, 5)
    assert (drawn[~mask] == 200).all()
    assert drawn.dtype == np.uint8
    assert {tuple(colour) for colour in drawn[mask].reshape(-1, 3).tolist()} == {
        (164,) * 3,
        (40,) * 3,
    }
    assert (drawn[mask] == 40).all(1).mean() == 0.2  # one of five
    assert (image == 200).all()


def test_colours_start_at_the_median_of_good_pixels_and_end_at_the_median_of_the_highest():
    good = np.tile(np.arange(5, dtype=np.float32), (40, 8))
    hole = np.zeros((40, 40), np.float32)
    hole[7, 9] = 6.0
    crack = hole * 2
    maps = [good, hole, crack, good]
    assert pictures.colour_scale([0, 1, 1, 0], maps.__getitem__) == (2.0, 9.0)
    assert pictures.colour_scale([0, 0], [good, good].__getitem__) == (2.0, 4.0)
    assert pictures.colour_scale([1], [hole].__getitem__) == (0.0, 6.0)


def test_colours_of_little():
    flat = np.full((8, 8), 3.0, np.float32)
    assert pictures.colour_scale([0], [flat].__getitem__) == (3.0, 4.0)
    assert pictures.colour_scale([], [].__getitem__) == (0.0, 1.0)
