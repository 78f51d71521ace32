import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract import FitOnlyContract
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from lightning_ad.data.dataset import AnomalyDataset
from lightning_ad.errors import UsageError, UserError
from lightning_ad.features.backbone import Backbone
from lightning_ad.methods import spade
from lightning_ad.methods.spade import SPADE
from lightning_ad.system import row_store

SIZE = (64, 48)


@pytest.fixture(autouse=True, scope="module")
def one_backbone():
    """For all models here: to build it takes longer than a test."""
    torch.manual_seed(0)
    backbone = Backbone("resnet18", None, strides=(4, 8, 16, 32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spade, "Backbone", lambda *_, **__: backbone)
        yield


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Of two images' maps."""
    monkeypatch.setattr(
        row_store, "BLOCK_BYTES", 2 * 4 * (16 * 12 * 64 + 8 * 6 * 128 + 4 * 3 * 256)
    )


def rows(module):
    return torch.cat(module.gallery.blocks)


def model(**options):
    return SPADE(**{"k_image": 3, "k_pixel": 2, "sigma": 0.0, **options}).eval()


def images(count, seed):
    coarse = torch.rand(count, 3, 8, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, SIZE, mode="bilinear")


TRAIN, TEST = images(7, seed=1), images(4, seed=2)


class TrainingSet(AnomalyDataset):
    """As many images as a tensor has rows; they are not read from files."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    @property
    def input_size(self):
        return self.images.shape[2:]


def fit(module, train=TRAIN, order=None, extends=False):
    """What a trainer does, without one; `order` are the images that this process sees."""
    data = SimpleNamespace(input_size=train.shape[2:])
    module.trainer = SimpleNamespace(
        datamodule=data, train_dataloader=SimpleNamespace(dataset=TrainingSet(train))
    )
    module.extending = extends
    with torch.no_grad():
        module.begin()
        for part in (torch.arange(len(train)) if order is None else order).split(2):
            module.observe(train[part], part)
        module.complete()
    module.images.fill_(len(module.features))
    module.fitted.fill_(True)
    module.extending = False
    return module


def score(module, test=TEST):
    with torch.no_grad():
        return module(test)


def brute_force(module, train, test, k_image, k_pixel, neighbours, squared, concatenate):
    """In float64, one distance after another; maps are not smoothed."""
    with torch.no_grad():
        (*bank, bank_last), (*query, query_last) = (
            [m.double() for m in module.backbone(x)] for x in (train, test)
        )
    metric = "sqeuclidean" if squared else "euclidean"
    between = cdist(query_last.mean((2, 3)), bank_last.mean((2, 3)), metric)
    order = between.argsort(1)
    scores = np.take_along_axis(between, order, 1)[:, :k_image].mean(1)
    if concatenate:
        grid = bank[0].shape[2:]
        bank, query = (
            [torch.cat([F.interpolate(m, grid, mode="bilinear") for m in x], 1)]
            for x in (bank, query)
        )
    maps, finest = [], []
    for b, q in zip(bank, query, strict=True):
        height, width = b.shape[2:]
        pixels = b.permute(0, 2, 3, 1).flatten(1, 2).numpy()  # [n, P, C]
        grids = []
        for k, few in enumerate(order[:, :k_pixel]):
            distances = cdist(
                q[k].flatten(1).T.numpy(), pixels[few].reshape(-1, pixels.shape[2]), metric
            )
            grids.append(np.sort(distances, 1)[:, :neighbours].mean(1).reshape(height, width))
            if len(maps) == 0:
                found = distances.argmin(1)
                finest.append(
                    (
                        few[found // (height * width)],
                        found % (height * width) // width,
                        found % width,
                    )
                )
        grids = torch.from_numpy(np.stack(grids))
        maps.append(F.interpolate(grids[:, None], SIZE, mode="bilinear")[:, 0])
    return scores, torch.stack(maps).mean(0).numpy(), finest


@pytest.mark.parametrize("pyramid", ["average", "concatenate"])
@pytest.mark.parametrize(("distance", "neighbours"), [("plain", 1), ("squared", 3)])
def test_scores_maps_and_neighbours_are_those_of_a_brute_force(
    pyramid, distance, neighbours, monkeypatch
):
    monkeypatch.setattr(spade, "BLOCK_BYTES", 1)  # one gallery image at a time
    options = {"k_image": 3, "k_pixel": 2, "neighbours": neighbours}
    module = fit(model(pyramid=pyramid, distance=distance, **options))
    expected = brute_force(
        module,
        TRAIN,
        TEST,
        squared=distance == "squared",
        concatenate=pyramid == "concatenate",
        **options,
    )
    prediction = score(module)
    np.testing.assert_allclose(prediction.score, expected[0], rtol=1e-4)
    np.testing.assert_allclose(prediction.map, expected[1], rtol=1e-4)
    for k, (image, row, column) in enumerate(expected[2]):
        y, x = np.unravel_index(expected[1][k].argmax(), SIZE)
        cell = y // 4 * (SIZE[1] // 4) + x // 4  # the finest level has stride 4
        assert prediction.nearest[k].tolist() == [image[cell], row[cell], column[cell]]
    smooth = model(pyramid=pyramid, distance=distance, sigma=4.0, **options)
    smooth.load_state_dict(module.state_dict())
    filtered = np.stack([gaussian_filter(m, 4.0) for m in expected[1]])
    np.testing.assert_allclose(score(smooth).map, filtered, rtol=1e-4)


def test_a_larger_gallery_finds_nearer_pixels():
    maps = [score(fit(model(k_pixel=k))).map for k in (1, 3, 7)]
    assert (maps[0] > maps[1] + 1e-4).any()
    assert (maps[1] > maps[2] + 1e-4).any()
    assert (maps[0] >= maps[1] - 1e-5).all()
    assert (maps[1] >= maps[2] - 1e-5).all()


def test_more_neighbours_than_images_are_all_of_them(caplog):
    with caplog.at_level(logging.INFO):
        many = score(fit(model(k_image=100, k_pixel=50, neighbours=10**6)), TEST[:1])
    assert "7 training images" in caplog.text
    all_of_them = score(fit(model(k_image=7, k_pixel=7, neighbours=10**6)), TEST[:1])
    assert torch.equal(many.score, all_of_them.score)
    assert torch.equal(many.map, all_of_them.map)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_gallery_in_a_file_gives_the_same_bits(storage, caplog):
    with caplog.at_level(logging.INFO):
        held, spilled = (fit(model(storage=storage, memory_gb=gib)) for gib in (1, 1e-6))
    assert caplog.text.count("temporary file") == 1
    assert rows(spilled).dtype == getattr(torch, storage)
    assert torch.equal(rows(held), rows(spilled))
    assert len(spilled.gallery.blocks) > len(held.gallery.blocks) == 1
    assert all(torch.equal(a, b) for a, b in zip(score(held), score(spilled), strict=True))
    on_a_device = [rows(copy.deepcopy(m).to("meta")).device.type for m in (held, spilled)]
    assert on_a_device == ["meta", "cpu"]


def test_half_precision_is_near():
    full, half = (score(fit(model(storage=storage))) for storage in ("float32", "float16"))
    assert not torch.equal(full.map, half.map)
    torch.testing.assert_close(half.map, full.map, rtol=2e-2, atol=0)
    assert torch.equal(half.score, full.score)


@pytest.mark.parametrize("memory_gb", [None, 1e-6])
def test_a_fit_without_the_last_images_is_one_without_them(memory_gb):
    """What is left out as suspicious does not come again to a second `begin`."""
    trimmed, fewer = fit(model(memory_gb=memory_gb), order=torch.arange(5)), fit(model(), TRAIN[:5])
    assert torch.equal(rows(trimmed), rows(fewer))
    assert torch.equal(trimmed.features, fewer.features)
    stored = sum(t.untyped_storage().nbytes() for t in (*trimmed.gallery.blocks, trimmed.features))
    assert stored == fewer.gallery.nbytes + fewer.features.nbytes


@pytest.mark.parametrize("memory_gb", [None, 1e-6])
def test_an_extended_gallery_equals_one_of_all(memory_gb):
    whole = fit(model(memory_gb=memory_gb))
    grown = fit(fit(model(memory_gb=memory_gb), TRAIN[:3]), TRAIN[3:], extends=True)
    assert torch.equal(rows(grown), rows(whole))
    assert torch.equal(grown.features, whole.features)
    again = fit(fit(model(memory_gb=memory_gb), TRAIN[:3]), TRAIN[3:5], extends=True)
    again.images.fill_(3)  # a second `begin` while it is extended: suspicious images were found
    fit(again, TRAIN[3:], extends=True)
    assert torch.equal(rows(again), rows(whole))
    forgotten = fit(fit(model(), TRAIN[:3]), TRAIN[3:])
    assert len(forgotten.features) == len(forgotten.gallery) == 4


def test_extending_by_another_size_is_refused():
    with pytest.raises(UsageError, match=r"16x12 pixels.*24x12: set data\.image_size"):
        fit(fit(model()), F.interpolate(TRAIN, (96, 48)), extends=True)


@pytest.mark.parametrize("options", [{}, {"distance": "squared", "k_image": 100}])
def test_leave_one_out_is_a_fit_without_the_image(options):
    train = torch.cat([TRAIN, TRAIN[2:3]])  # one twice: each is at distance 0 of the other
    module = fit(model(**options), train)
    left_out = module.leave_one_out(train, torch.arange(8))
    module.images.fill_(5)
    module.extending = True  # the last three were added
    assert torch.equal(module.leave_one_out(train[5:], torch.arange(3)), left_out[5:])
    module.extending = False
    for k in (0, 2, 7):
        without = fit(model(**options), train[torch.arange(8) != k])
        torch.testing.assert_close(
            left_out[k], score(without, train[k : k + 1]).score[0], rtol=1e-4, atol=1e-6
        )
    with pytest.raises(UserError, match="one training image"):
        fit(model(), TRAIN[:1]).leave_one_out(TRAIN[:1], torch.tensor([0]))


def grown_on_three(rank):
    module = fit(model(), TRAIN[:3], order=torch.arange(3)[rank::3])
    return fit(module, TRAIN[3:], order=torch.arange(4)[rank::3], extends=True).state_dict()


@pytest.mark.distributed
def test_three_processes_have_the_gallery_of_one(over_processes):
    expected = fit(model()).state_dict()
    for got in over_processes(3, grown_on_three):
        assert all(torch.equal(got[k], expected[k]) for k in expected)


class TestSPADE(FitOnlyContract):
    """The backbone that all share here has the weights that each would have."""

    method = "SPADE"
    options = {"k_image": 3}
    selects = True
