"""Each way to resize against Pillow in float, against OpenCV's numbers, and as two matrices."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_ad.data.resizing import resize, resize_matrix

PILLOWS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SIZES = [(20, 30), (90, 100), (61, 31), (7, 120)]

# cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR) of OpenCV 4.14.0 (and 5.0.0),
# where values are (37 k mod 101) / 100, float32, row by row.
OPENCVS = {
    ((5, 7), (3, 4)): [
        [0.32875, 0.5554167, 0.3191667, 0.50375],
        [0.26875, 0.79, 0.55375, 0.57],
        [0.4191667, 0.7720833, 0.5358334, 0.4679167],
    ],
    ((7, 9), (4, 3)): [
        [0.4825, 0.5825, 0.6825],
        [0.88125, 0.0975, 0.1975],
        [0.5225, 0.6225, 0.7225],
        [0.41625, 0.51625, 0.2375],
    ],
    ((4, 5), (6, 8)): [
        [0.0, 0.161875, 0.393125, 0.624375, 0.54, 0.14, 0.308125, 0.47],
        [0.42, 0.3609375, 0.308125, 0.539375, 0.6128125, 0.5284375, 0.4440625, 0.385],
        [0.8116667, 0.5316666, 0.1947917, 0.4260417, 0.6572917, 0.8885416, 0.5516667, 0.2716667],
        [0.6983333, 0.4183333, 0.0814583, 0.3127083, 0.5439584, 0.7752084, 0.4383333, 0.1583333],
        [0.585, 0.5259375, 0.4415625, 0.3571875, 0.430625, 0.661875, 0.6090625, 0.55],
        [0.5, 0.661875, 0.83, 0.43, 0.345625, 0.576875, 0.808125, 0.97],
    ],
}
# The same of 4 x 1100 values to 4 x 380, where places have many digits: row 2, some columns.
FAR_COLUMNS = [0, 1, 100, 263, 377, 379]
OPENCVS_FAR = [0.3436842, 0.351579, 0.3357895, 0.1873684, 0.821579, 0.1994737]


@pytest.fixture
def array():
    return np.random.default_rng(0).random((61, 83), dtype=np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", PILLOWS)
def test_antialiased_ways_are_pillows_in_float(way, size, array):
    pillows = np.asarray(Image.fromarray(array).resize(size[::-1], PILLOWS[way]))
    ours = resize(torch.from_numpy(array)[None], *size, way)[0]
    np.testing.assert_allclose(ours, pillows.clip(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("shape", "size"), OPENCVS)
def test_linear_is_opencvs(shape, size):
    values = torch.arange(shape[0] * shape[1]).view(1, *shape) * 37 % 101 / 100
    expected = torch.tensor(OPENCVS[shape, size])
    torch.testing.assert_close(resize(values, *size, "linear")[0], expected, rtol=0, atol=1e-6)


def test_linear_is_opencvs_where_places_have_many_digits():
    values = torch.arange(4 * 1100).view(1, 4, 1100) * 37 % 101 / 100
    found = resize(values, 4, 380, "linear")[0, 2, FAR_COLUMNS]
    torch.testing.assert_close(found, torch.tensor(OPENCVS_FAR), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", [*PILLOWS, "linear"])
def test_every_way_is_two_matrices(way, size, array):
    rows = resize_matrix(61, size[0], way)
    columns = resize_matrix(83, size[1], way)
    assert rows.dtype == torch.float32
    product = (rows @ torch.from_numpy(array) @ columns.T).clamp(0, 1)
    found = resize(torch.from_numpy(array)[None], *size, way)[0]
    torch.testing.assert_close(found, product, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", ["bicubic", "lanczos", "linear"])
def test_a_batch_and_a_grey_image_are_resized_as_one(way):
    colour = torch.rand(3, 40, 50)
    batch = torch.stack([colour, colour.flip(2)])
    assert torch.equal(resize(batch, 20, 61, way)[0], resize(colour, 20, 61, way))
    grey = colour[:1].expand(3, -1, -1)
    found = resize(grey, 20, 61, way)
    assert torch.equal(found, resize(grey.contiguous(), 20, 61, way))
    assert found.stride(0) == 0
