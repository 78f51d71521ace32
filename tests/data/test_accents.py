"""An accent is one character or two (NFC, NFD): names with it are one name, in every layout."""

import os
import re
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from trees import category_of, layout_tests

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.ignoring import with_ignored
from lightning_ad.data.layouts import find_samples
from lightning_ad.errors import DataError
from lightning_ad.system.paths import existing

COMPOSED = "\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
NUMBERED = {"ksdd2"}  # a layout of files that are named by a number
LAYOUTS = sorted({*layout_tests()} - NUMBERED)
MASK_FOLDERS = {"mvtec_loco"}  # whose images have folders of masks


def find(layout, root):
    return find_samples(layout, root, category_of(layout), {})


def rename(root, layout):
    """Gives images a composed accent, and all other files and the names in tables another one."""
    images = {sample.path for sample in find(layout, root)}
    if layout in MASK_FOLDERS:
        masks = {sample.mask_path for sample in find(layout, root) if sample.mask_path}
        for folder in map(Path, masks):
            folder.rename(folder.with_name(DECOMPOSED + folder.name))
    for path in sorted(root.rglob("*.*")):
        if path.suffix in (".csv", ".txt"):
            text = re.sub(
                r"(?m)([\w]+\.(png|jpg))", DECOMPOSED + r"\1", path.read_text(), flags=re.I
            )
            path.write_text(text)
        elif str(path) in images:
            path.rename(path.with_name(COMPOSED + path.name))
        elif path.suffix != ".json" and layout not in MASK_FOLDERS:
            path.rename(path.with_name(DECOMPOSED + path.name))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_image_and_mask_and_table_are_paired(layout, trees, tmp_path):
    root = shutil.copytree(trees[layout], tmp_path / "tree")
    before = find(layout, root)
    rename(root, layout)
    after = find(layout, root)
    kinds = [
        Counter((s.split, s.defect, s.mask_path is None) for s in found)
        for found in (before, after)
    ]
    assert kinds[0] == kinds[1]
    for sample in after:
        assert COMPOSED in sample.path
        assert os.path.exists(sample.path)
        assert sample.mask_path is None or os.path.exists(sample.mask_path)


def test_a_category_a_folder_and_a_root(trees, tmp_path):
    root = shutil.copytree(trees["mvtec"], tmp_path / f"Fabrik{DECOMPOSED}")
    base = (root / "bottle").rename(root / f"bottle{DECOMPOSED}")
    (base / "test/broken").rename(base / f"test/broken{COMPOSED}")
    (base / "ground_truth/broken").rename(base / f"ground_truth/broken{DECOMPOSED}")
    typed = tmp_path / f"Fabrik{COMPOSED}"
    added = str(typed / f"bottle{COMPOSED}/train/good")
    data = AnomalyDataModule("mvtec", str(typed), f"bottle{COMPOSED}", train_folder=added)
    data.setup()
    assert data.counts()["test_anomalous"] == 4


def test_ignored_regions_are_those_of_the_image(tmp_path):
    for folder, name in (("root/good", COMPOSED), ("ignore/good", DECOMPOSED)):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / folder / f"{name}.png")
    samples = find_samples("folder", tmp_path / "root", None, {"bad": None})
    (ignored,) = with_ignored(samples, tmp_path / "root", str(tmp_path / "ignore"), None)
    assert ignored.ignore_path == str(tmp_path / f"ignore/good/{DECOMPOSED}.png")
    Image.new("L", (4, 4)).save(tmp_path / f"ignore/good/{COMPOSED}.bmp")
    with pytest.raises(DataError, match="have one name"):
        with_ignored(samples, tmp_path / "root", str(tmp_path / "ignore"), None)


def test_a_path_is_found_as_it_is_on_the_disk(tmp_path):
    folder = tmp_path / DECOMPOSED
    folder.mkdir()
    (folder / COMPOSED).touch()
    for name in (COMPOSED, DECOMPOSED):
        for inner in (COMPOSED, DECOMPOSED):
            assert existing(tmp_path / name / inner) == folder / COMPOSED
    gone = tmp_path / COMPOSED / "gone"
    assert existing(gone) == gone
