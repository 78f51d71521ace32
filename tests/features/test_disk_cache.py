"""Features on disk: the same bits, only for the same network and pixels, within the limit."""

import copy
import pickle
import shutil

import pytest
import torch

from lightning_ad.features import disk_cache
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.disk_cache import DiskFeatures
from lightning_ad.features.extraction import FusedMaps

LAYERS = ["features.3", "features.6"]


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Backbone("squeezenet1_1", None, LAYERS)


def images(count=3, seed=0):
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def forbidden(*_):
    raise AssertionError("the network was asked")


def test_features_come_back_to_the_same_bits(backbone, tmp_path, monkeypatch):
    expected = backbone(images())
    backbone.keep(tmp_path, 1)
    first = backbone(images())
    monkeypatch.setattr(Backbone, "plain_maps", forbidden)
    monkeypatch.setattr(FusedMaps, "__call__", forbidden)
    again = backbone(images())
    for maps in (first, again):
        for one, other in zip(maps, expected, strict=True):
            assert torch.equal(one, other)
            assert one.stride() == other.stride()  # sums over channels round by it
    with pytest.raises(AssertionError, match="the network was asked"):
        backbone(images(seed=1))


def test_another_network_or_layer_has_its_own(backbone, tmp_path):
    backbone.keep(tmp_path, 1)
    backbone(images())
    for other in (
        Backbone("squeezenet1_1", None, LAYERS),
        Backbone("squeezenet1_1", None, LAYERS[:1]),
    ):
        expected = other(images())
        other.keep(tmp_path, 1)
        assert all(torch.equal(a, b) for a, b in zip(other(images()), expected, strict=True))
    assert len(list(tmp_path.glob("*/*"))) == 3


def test_weights_that_are_loaded_later_count(backbone, tmp_path):
    """As in an evaluation, whose backbone is made before its checkpoint is read."""
    other = Backbone("squeezenet1_1", None, LAYERS)
    expected = other(images())
    backbone.keep(tmp_path, 1)
    backbone(images())
    backbone.load_state_dict(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(backbone(images()), expected, strict=True))


def test_images_of_the_same_bytes_but_another_shape_are_different(backbone, tmp_path):
    backbone.keep(tmp_path, 1)
    for shape in ((1, 3, 64, 96), (1, 3, 96, 64)):
        assert backbone(torch.zeros(shape))[0].shape[2] == shape[2] // 4 - 1


def test_foreign_files_stay(backbone, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/image.png").write_bytes(bytes(10**6))
    backbone.keep(tmp_path, 1e-6)
    backbone(images(1))
    assert (tmp_path / "mine/image.png").is_file()


def test_a_damaged_file_is_computed_again(backbone, tmp_path):
    expected = backbone(images(1))
    backbone.keep(tmp_path, 1)
    backbone(images(1))
    (file,) = tmp_path.glob("*/*/*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert all(torch.equal(a, b) for a, b in zip(backbone(images(1)), expected, strict=True))


def test_the_limit_holds_and_the_oldest_go(backbone, tmp_path):
    backbone.keep(tmp_path, 1)
    backbone(images(1))
    (file,) = tmp_path.glob("*/*/*")
    limit = 3.5 * file.stat().st_size / 2**30
    backbone.keep(tmp_path, limit)
    backbone(images(8, seed=2))
    held = sorted(tmp_path.glob("*/*/*"), key=lambda path: path.stat().st_mtime)
    assert len(held) <= 3
    backbone.keep(tmp_path, limit / 2)
    backbone(images(1, seed=3))  # room is made
    assert not held[0].exists()


def test_caching_stops_if_reading_is_slower_than_computing(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "TRIED", 2)
    features = DiskFeatures(tmp_path, 1, backbone.body, "squeezenet1_1", LAYERS)
    one = [torch.rand(1, 2, 3, 3)]
    for _ in range(2):  # two computed, two read, and nothing is faster than what computes this
        for image in images(2).split(1):
            features.get(image, lambda _: one)
    assert not features.pays


def test_it_is_no_part_of_copies_and_checkpoints(backbone, tmp_path):
    names = list(backbone.state_dict())
    backbone.keep(tmp_path, 1)
    expected = backbone(images(1))
    assert list(backbone.state_dict()) == names
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        shutil.rmtree(tmp_path)  # each opens its own
        assert all(torch.equal(a, b) for a, b in zip(other(images(1)), expected, strict=True))
        assert len(list(tmp_path.glob("*/*/*"))) == 1
