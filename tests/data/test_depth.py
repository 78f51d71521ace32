"""Images of 10 to 16 bits: the same numbers as of 8, and a sentence where depths differ."""

import shutil

import numpy as np
import pytest
from deep import deepen
from minimal import Minimal
from PIL import Image
from runs import typed
from small_fits import trainer, tree_data

from lightning_ad.data.depth import Depth
from lightning_ad.errors import DataError, UsageError


@pytest.fixture
def tree(trees, tmp_path):
    return shutil.copytree(trees["mvtec"], tmp_path / "tree")


def images(tree, split="*"):
    return sorted((tree / "bottle").glob(f"{split}/*/*.png"))


def in_all(tree, change, split="*"):
    for path in images(tree, split):
        if path.parts[-3] != "ground_truth":
            change(path)


def scores(tree, **options):
    module = Minimal()
    data = tree_data(tree, **options)
    run = trainer(tree)
    run.fit(module, data)
    run.test(module, data, verbose=False)
    assert len(module.test_metrics) >= 8
    return data, {name: float(value) for name, value in module.test_metrics.items()}


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_twelve_bits_have_the_metrics_of_eight(tree, mode):
    in_all(tree, lambda path: Image.open(path).convert(mode).save(path))
    data, before = scores(tree)
    assert data.bits == 8
    in_all(tree, lambda path: deepen(path, 12))
    data, after = scores(tree)
    assert data.bits == 12
    assert after == pytest.approx(before, abs=0.002)
    assert "12 bits" in data.preprocessing


def test_the_depth_is_the_fewest_bits_that_hold_the_training_values(tmp_path):
    for highest, bits in ((200, 8), (256, 10), (1023, 10), (1024, 12), (9000, 14), (65535, 16)):
        path = tmp_path / f"{highest}.png"
        Image.fromarray(np.array([[0, highest]], np.uint16)).save(path)
        found = Depth.of([str(path)])
        assert (found.bits, found.highest, found.path) == (bits, highest, str(path))
    assert Depth.of([]).bits == 8


def set_up(tree, **options):
    data = tree_data(tree, **options)
    data.setup("fit")
    return data


def test_test_images_of_another_depth_stop_before_the_fit(tree):
    in_all(tree, lambda path: deepen(path, 12))
    brighter = images(tree, "test")[2]
    Image.fromarray(np.full((40, 48), 5000, np.uint16)).save(brighter)
    for bits in (None, 12):
        with pytest.raises(DataError, match=rf"{brighter} has values up to 5000, and those of 12"):
            set_up(tree, bits=bits)
    assert set_up(tree, bits=14).bits == 14
    with pytest.raises(DataError, match=r"values up to \d+, and those of 10 bits"):
        set_up(tree, bits=10)
    assert set_up(tree, bits="legacy").bits == "legacy"


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (8, 12, r"has values up to \d+, and those of 8 bits"),
        (12, 8, "7 of 7 images have 8 bits a channel, .* and the training images have 12"),
        (12, 10, r"the test images have values up to \d+, as if of 10 bits"),
    ],
)
def test_a_test_set_of_another_depth_is_a_sentence(tree, train, test, words, capsys):
    for split, bits in (("train", train), ("test", test)):
        if bits > 8:
            in_all(tree, lambda path, bits=bits: deepen(path, bits), split)
    with pytest.raises(DataError, match=words):
        set_up(tree)
    if train > test:
        with pytest.warns(UserWarning, match=r"are they of another depth\?"):
            set_up(tree, bits=train)
    typed("datasets", "check", str(tree), "--layout", "mvtec")
    printed = capsys.readouterr().out
    assert f"the training images have {train} bits, the test images {test}" in printed


def test_a_setting_that_is_no_depth_is_refused(tree):
    with pytest.raises(UsageError, match=r"data\.bits: expected 8 to 16 or null, got 7"):
        tree_data(tree, bits=7)
