import pytest
import torch

from lightning_ad.data.dataset import AnomalyDataset
from lightning_ad.data.geometry import Geometry
from lightning_ad.data.layouts import find_samples
from lightning_ad.data.sample import collate
from lightning_ad.data.sampler import MIXED, RowKey
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.data.textures import NoiseTextures
from lightning_ad.data.tiling import Tiles

SIZE = (96, 128)
GEOMETRY = Geometry.of([*SIZE], None)
ROWS = (4, 0, 6, 2, 5)


@pytest.fixture
def samples(trees):
    found = find_samples("mvtec", trees["mvtec"], "bottle", {})
    return [sample for sample in found if sample.split == "test"]


def test_rows_are_read_in_threads_and_keep_their_order(samples):
    data = AnomalyDataset(samples, GEOMETRY)
    keys = [RowKey(row) for row in ROWS]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = collate(data.__getitems__(keys))
    finally:
        torch.set_num_threads(before)
    alone = collate([data[key] for key in keys])
    assert found.path == alone.path == [samples[row].path for row in ROWS]
    assert torch.equal(found.image, alone.image)
    assert torch.equal(found.mask, alone.mask)


def test_padding_has_no_index(samples):
    data = AnomalyDataset(samples, GEOMETRY)
    assert data[RowKey(3)].index.tolist() == [3]
    assert data[RowKey(3, padding=True)].index.tolist() == [-1]


def test_a_recipe_is_a_function_of_seed_epoch_and_row(samples):
    def drawn(seed, key):
        data = AnomalyDataset(samples, GEOMETRY, Synthesis(), NoiseTextures(), seed)
        return data[key].recipe["parameters"]

    first = drawn(1, RowKey(2, epoch=3))
    assert first.equal(drawn(1, RowKey(2, epoch=3)))
    for other in (drawn(2, RowKey(2, epoch=3)), drawn(1, RowKey(2, 4)), drawn(1, RowKey(3, 3))):
        assert not first.equal(other)


def test_rows_are_the_tiles_of_the_images(samples):
    tiles = Tiles.of(SIZE, 64, 32)
    data = AnomalyDataset(samples, GEOMETRY, tiles=tiles)
    whole = AnomalyDataset(samples, GEOMETRY)
    assert len(tiles) == 6
    assert len(data) == 6 * len(samples)
    assert data.names[6 * 2 + 4] == f"{samples[2].path}@32,32"
    assert data[6 * 2 + 4].image.equal(whole[2].image[..., 32:, 32:96])
    assert data[6 * 2 + 4].mask.equal(whole[2].mask[..., 32:, 32:96])
    assert [whole.names[2]] == data[6 * 2 + 4].path


def test_few_images_are_kept_for_their_other_tiles(samples, monkeypatch):
    data = AnomalyDataset(samples, GEOMETRY, tiles=Tiles.of(SIZE, 64, 32))
    read = []

    def reading(sample, read_one=data._read):
        read.append(sample.path)
        return read_one(sample)

    monkeypatch.setattr(data, "_read", reading)
    for tile in range(6):
        for image in range(MIXED):
            data[6 * image + tile]
    assert read == [sample.path for sample in samples[:MIXED]]
    data[6 * MIXED]
    data[0]  # the oldest was dropped
    assert read[MIXED:] == [samples[MIXED].path, samples[0].path]
    data.forget()
    data[6 * MIXED]
    assert read[-1] == samples[MIXED].path
