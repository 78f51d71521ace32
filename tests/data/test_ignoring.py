"""Ignored regions: found, read, filled, and refused where they cannot be meant."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_fits import tree_data

from lightning_ad.data.ignoring import fill, read_ignored, with_ignored
from lightning_ad.data.sample import Sample
from lightning_ad.errors import DataError, UsageError


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return str(path)


def data(root, **options):
    module = tree_data(root, **options)
    module.setup()
    return module


@pytest.fixture
def tree(trees, tmp_path):
    return shutil.copytree(trees["mvtec"], tmp_path / "tree")


@pytest.fixture
def strip(tmp_path):
    """The right third of all images."""
    array = np.zeros((40, 48), np.uint8)
    array[:, 32:] = 255
    return save(tmp_path / "strip.png", array)


@pytest.mark.parametrize("seed", range(5))
def test_each_ignored_pixel_takes_the_colour_of_a_nearest_one_that_is_kept(seed):
    draw = np.random.default_rng(seed)
    ignored = torch.from_numpy(draw.random((9, 13)) < (0.3, 0.6, 0.9, 0.97, 0.5)[seed])
    ignored[4, 6] = False
    image = torch.arange(3 * 9 * 13, dtype=torch.float32).view(3, 9, 13)
    filled = fill(image, ignored)
    assert torch.equal(filled[:, ~ignored], image[:, ~ignored])
    kept = (~ignored).nonzero().double()
    for place in ignored.nonzero():
        row, column = divmod(int(filled[0, place[0], place[1]]), 13)
        assert not ignored[row, column]
        assert torch.equal(filled[:, place[0], place[1]], image[:, row, column])
        nearest = (kept - place).norm(dim=1).min()
        assert float((torch.tensor([row, column]) - place).double().norm()) == pytest.approx(
            float(nearest)
        )


def test_one_image_for_all(tree, strip):
    found = data(tree, ignore=strip)
    for split in ("train", "test"):
        for item in (found.dataset(split)[row] for row in range(len(found.samples[split]))):
            assert item.ignore.shape == (1, 64, 64)
            assert torch.equal(item.ignore[0, :, 43:], torch.ones(64, 21, dtype=torch.bool))
            assert not item.ignore[0, :, :42].any()
            assert not (item.mask & item.ignore).any()


def test_what_is_there_does_not_come_through(tree, strip):
    """Neither by the resize, nor where a defect is."""
    path = tree / "bottle/test/broken/000.png"
    before = data(tree, ignore=strip).dataset("test")[0]
    array = np.array(Image.open(path))
    array[:, 32:] = np.random.default_rng(0).integers(0, 256, array[:, 32:].shape)
    Image.fromarray(array).save(path)
    after = data(tree, ignore=strip).dataset("test")[0]
    assert before.path == after.path == [str(path)]
    assert torch.equal(before.image, after.image)


def test_a_folder_names_its_files_as_the_images(tree, tmp_path, capsys):
    array = np.zeros((40, 48), np.uint8)
    array[:10] = 1  # anything but black
    save(tmp_path / "ignore/bottle/train/good/002.bmp", array)
    save(tmp_path / "ignore/bottle/test/broken/001.png", array)
    found = data(tree, ignore=str(tmp_path / "ignore"))
    ignored = {
        sample.path: item.ignore.any()
        for split in ("train", "test")
        for sample, item in zip(
            found.samples[split], map(found.dataset(split).__getitem__, range(7)), strict=True
        )
    }
    assert {
        str(path)
        for path in (tree / "bottle/train/good/002.png", tree / "bottle/test/broken/001.png")
    } == {path for path, some in ignored.items() if some}


def test_a_third_value_of_the_masks(tree):
    path = tree / "bottle/ground_truth/broken/000_mask.png"
    array = np.zeros((40, 48), np.uint8)
    array[5:15, 5:15], array[5:15, 15:30] = 255, 200
    Image.fromarray(array).save(path)
    plain = data(tree).dataset("test")[0]
    assert plain.ignore is None
    assert plain.mask.double().mean() == pytest.approx(10 * 25 / (40 * 48), abs=0.01)
    item = data(tree, ignore_value=200).dataset("test")[0]
    assert item.mask.double().mean() == pytest.approx(10 * 10 / (40 * 48), abs=0.01)
    assert item.ignore.double().mean() == pytest.approx(10 * 15 / (40 * 48), abs=0.01)
    assert not (item.mask & item.ignore).any()


def test_a_mask_of_nothing_but_ignored_pixels_is_empty(tree):
    Image.fromarray(np.full((40, 48), 90, np.uint8) * (np.arange(48) > 20)).save(
        tree / "bottle/ground_truth/broken/000_mask.png"
    )
    assert data(tree).dataset("test")[0].mask.any()  # 90 would be the number of a class
    item = data(tree, ignore_value=90).dataset("test")[0]
    assert not item.mask.any()
    assert item.ignore.any()


def test_a_column_of_a_table(tree, strip, tmp_path):
    (tree / "samples.csv").write_text(
        "path,split,label,ignore\nbottle/train/good/000.png,train,0,strip.png\nbottle/train/good/001.png,train,0,\n"
        "bottle/test/good/000.png,test,0,\n"
    )
    shutil.copy(strip, tree / "strip.png")
    found = data(tree, layout="table", category=None)
    assert [found.training_set()[row].ignore.any() for row in (0, 1)] == [True, False]
    with pytest.raises(UsageError, match="leave out one"):
        data(tree, layout="table", category=None, ignore=strip)
    (tree / "strip.png").unlink()
    with pytest.raises(
        DataError, match=r"000.png has no file of ignored regions: expected .*strip.png"
    ):
        data(tree, layout="table", category=None)


def test_tiles_are_cut_of_it_too(tree, strip):
    found = data(tree, ignore=strip, image_size=128, tile=64, tile_overlap=32).training_set()
    whole = data(tree, ignore=strip, image_size=128).training_set()[0]
    assert torch.equal(found[2].ignore, whole.ignore[:, :64, 64:])


def test_regions_without_what_is_ignored(trees, tmp_path):
    """200 px of a pin, of which 20 are enough; ignored pixels belong to no region (MVTec LOCO)."""
    root = shutil.copytree(trees["mvtec_loco"], tmp_path / "loco")
    part = root / "pushpins/ground_truth/logical_anomalies/000/000.png"
    array = np.zeros((40, 48), np.uint8)
    array[:10, :20], array[:10, 20:30] = 3, 128
    Image.fromarray(array).save(part)
    Image.fromarray((array == 128).astype(np.uint8) * 128).save(part.with_name("001.png"))
    found = data(
        root, layout="mvtec_loco", category="pushpins", ignore_value=128, image_size=[40, 48]
    )
    (item,) = (
        i
        for i in map(found.dataset("test").__getitem__, range(7))
        if "logical_anomalies/000" in i.path[0]
    )
    assert item.regions[0].masks.flatten(1).sum(1).tolist() == [200]
    assert item.regions[0].shares.tolist() == [pytest.approx(0.1)]
    assert int(item.ignore.sum()) == 100


def test_layouts_whose_masks_tell_the_label(trees):
    with pytest.raises(UsageError, match="images whose mask is not black are defective"):
        data(trees["ksdd"], layout="ksdd", category=None, ignore_value=100)


def test_one_category_may_have_no_files(tree, tmp_path):
    save(tmp_path / "ignore/cable/train/good/000.png", np.full((40, 48), 255, np.uint8))
    with pytest.warns(UserWarning, match="no file in data.ignore"):
        found = data(tree, ignore=str(tmp_path / "ignore"))
    assert found.training_set()[0].ignore is None


def test_absolute_and_relative_paths_are_one(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tree)
    save(tmp_path / "ignore/bottle/train/good/000.png", np.eye(40, 48, dtype=np.uint8))
    samples = [
        Sample(str(tree / "bottle/train/good/000.png"), "train"),
        Sample("./bottle/train/good/000.png", "train"),
    ]
    found = with_ignored(samples, Path(), str(tmp_path / "ignore"), None)
    assert [s.ignore_path for s in found] == [
        str(tmp_path / "ignore/bottle/train/good/000.png")
    ] * 2


def test_what_cannot_be_meant_is_refused(tree, tmp_path):
    with pytest.raises(DataError, match="is not there; expected an image, or a folder"):
        data(tree, ignore=str(tmp_path / "none.png"))
    save(tmp_path / "ignore/000.png", np.zeros((40, 48), np.uint8))
    plain = {"layout": "folder", "category": None, "root": str(tree / "bottle")}
    options = {
        "layout_options": {"good": "train/good", "bad": "test/broken"},
        "ignore": str(tmp_path / "ignore"),
    }
    with pytest.raises(
        DataError,
        match=r"no file in data.ignore .*expected .*ignore/(test/broken|train/good)/000\.png",
    ):
        data(**plain, **options)
    with pytest.raises(UsageError, match="1 to 255, got 0"):
        data(tree, ignore_value=0)


def test_an_image_of_another_size_or_one_that_leaves_nothing(tree, tmp_path):
    small = save(tmp_path / "small.png", np.zeros((10, 10), np.uint8))
    with pytest.raises(DataError, match=r"the file of ignored regions .* they must be of one size"):
        data(tree, ignore=small).training_set()[0]
    everything = save(tmp_path / "all.png", np.full((40, 48), 255, np.uint8))
    with pytest.raises(DataError, match=r"every pixel of .*000.png is ignored"):
        data(tree, ignore=everything).training_set()[0]


def test_skip_leaves_out_what_it_cannot_use(tree, tmp_path):
    save(tmp_path / "ignore/bottle/train/good/001.png", np.full((40, 48), 255, np.uint8))
    found = data(tree, ignore=str(tmp_path / "ignore"), on_error="skip")
    assert [fault.sample.path for fault in found.skipped] == [
        str(tree / "bottle/train/good/001.png")
    ]
    assert "every pixel" in found.skipped[0].reason


def test_samples_without_a_file_stay_as_they_are(tree):
    samples = [Sample("a.png", "train")]
    assert with_ignored(samples, tree, None, None) == samples
    assert read_ignored(samples[0], (4, 4)) is None
