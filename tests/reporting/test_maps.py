import numpy as np
import pytest
import torch
from PIL import Image

from lightning_ad.errors import DataError
from lightning_ad.reporting.maps import read_map, write_map


@pytest.mark.parametrize("values", [(0.0, 1.0), (-3e-6, 2e-6), (1e4, 1.0001e4), (-1e30, 1e30)])
def test_values_come_back(tmp_path, values):
    low, high = values
    map = low + (high - low) * torch.rand(
        37, 53, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    map = map.float()
    write_map(tmp_path / "maps" / "a.png", map)
    back = read_map(tmp_path / "maps" / "a.png")
    assert back.dtype == torch.float32
    assert back.shape == map.shape
    step = (map.max().double() - map.min().double()) / 65535
    rounding = map.abs().max().double() * 2**-24
    assert (back.double() - map.double()).abs().max() <= step / 2 * (1 + 1e-9) + rounding
    assert back.min() == map.min()
    assert back.max() == map.max()


def test_constant_map(tmp_path):
    write_map(tmp_path / "a.png", torch.full((4, 5), 0.1))
    assert torch.equal(read_map(tmp_path / "a.png"), torch.full((4, 5), 0.1))


def test_is_a_16_bit_grey_png(tmp_path):
    write_map(tmp_path / "a.png", torch.arange(12.0).reshape(3, 4))
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "I;16", (4, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_raises(tmp_path, bad):
    map = torch.zeros(4, 4)
    map[1, 2] = bad
    with pytest.raises(ValueError, match="NaN"):
        write_map(tmp_path / "a.png", map)


def test_unreadable_maps_are_named(tmp_path):
    with pytest.raises(DataError, match=r"missing\.png"):
        read_map(tmp_path / "missing.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "plain.png")
    with pytest.raises(DataError, match="offset"):
        read_map(tmp_path / "plain.png")


def test_a_full_disk_names_the_map(tmp_path):
    path = tmp_path / "map.png"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        write_map(path, torch.rand(64, 64))
    assert full.value.filename == str(path)
