"""What holds for every layout; the tests of each one are in tests/data/layouts."""

import shutil
from pathlib import Path

import pytest
import yaml
from paths import ROOT
from PIL import Image
from runs import typed
from trees import category_of, layout_tests

from lightning_ad.data import tables
from lightning_ad.data.checking import examine
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.layouts import (
    _files,
    categories,
    find_samples,
    labels_come_from_masks,
    layout_module,
    layout_names,
)
from lightning_ad.errors import DataError, UsageError

LAYOUTS = layout_names()
WITH_TREE = sorted(layout_tests())


def find(trees, layout):
    return find_samples(layout, trees[layout], category_of(layout), {})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_has_a_config_and_a_row_of_the_page(layout):
    config = yaml.safe_load((ROOT / f"configs/data/{layout}.yaml").read_text())
    assert config["data"]["layout"] == layout
    assert AnomalyDataModule(**config["data"]).layout == layout
    assert f"`{layout}`" in (ROOT / "data/README.md").read_text()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_draws_its_tree_in_its_test_or_its_data_by_itself(layout):
    makes_its_data = hasattr(layout_module(layout), "prepare")
    assert (layout in WITH_TREE) != makes_its_data, (
        f"write draw_tree(root) in tests/data/layouts/test_{layout}.py"
    )


@pytest.mark.parametrize("layout", WITH_TREE)
def test_images_for_training_and_for_the_test_are_found_without_reading_one(
    layout, trees, monkeypatch
):
    def refuse(path, *_):
        raise AssertionError(f"{path} was opened")

    if not labels_come_from_masks(layout):
        monkeypatch.setattr(Image, "open", refuse)
    samples = find(trees, layout)
    kinds = {(sample.split, sample.label) for sample in samples}
    assert {("train", 0), ("test", 0), ("test", 1)} <= kinds
    assert ("train", 1) not in kinds
    assert find(trees, layout) == samples
    assert len({sample.path for sample in samples}) == len(samples)


@pytest.mark.parametrize("layout", WITH_TREE)
def test_all_files_can_be_used_and_all_masks_are_of_defects(layout, trees):
    samples = find(trees, layout)
    findings = examine(samples)
    assert findings.faults == []
    assert findings.duplicates == []
    for sample in samples:
        assert (sample.mask_path is None) == (sample.label == 0)


@pytest.mark.parametrize("layout", WITH_TREE)
def test_the_category_is_one_of_its_own(layout, trees):
    category = category_of(layout)
    there = categories(layout, trees[layout])
    assert (category is None and there == []) or category in there


@pytest.mark.parametrize("layout", WITH_TREE)
def test_an_unknown_category_is_refused(layout, trees):
    with pytest.raises(UsageError, match="nonsense"):
        find_samples(layout, trees[layout], "nonsense", {})


@pytest.mark.parametrize("layout", WITH_TREE)
def test_a_missing_root_draws_the_tree(layout, tmp_path):
    with pytest.raises(DataError, match=r"(?s)no data set at .*nowhere.*ROOT/.*data\.root"):
        find_samples(layout, tmp_path / "nowhere", category_of(layout), {})


@pytest.mark.parametrize("layout", WITH_TREE)
def test_the_layout_of_a_tree_is_found_out(trees, layout, capsys):
    assert typed("datasets", "check", trees[layout]) == 0
    assert f"by the layout '{layout}'" in capsys.readouterr().out


@pytest.mark.parametrize("layout", [name for name in WITH_TREE if labels_come_from_masks(name)])
def test_a_mask_that_cannot_be_read_is_a_fault_like_others(trees, tmp_path, layout, capsys):
    root = shutil.copytree(trees[layout], tmp_path / layout)
    sample = next(sample for sample in find(trees, layout) if sample.label)
    broken = root / Path(sample.mask_path).relative_to(trees[layout])
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=str(broken)):
        AnomalyDataModule(layout, str(root)).setup()
    with pytest.warns(UserWarning, match=f"1 images are left out.*{broken}"):
        AnomalyDataModule(layout, str(root), on_error="skip").setup()
    assert typed("datasets", "check", root) == 1
    assert "1 images cannot be used" in capsys.readouterr().out


def test_unknown_layouts_and_options_list_what_there_is(trees):
    known = ", ".join(LAYOUTS)
    with pytest.raises(UsageError, match=f"unknown layout 'mvtek'; data.layout is one of {known}"):
        find_samples("mvtek", trees["mvtec"], None, {})
    with pytest.raises(UsageError, match="layout 'folder' has no option 'god'; it has good, bad"):
        find_samples("folder", trees["folder"], None, {"god": "x"})
    with pytest.raises(UsageError, match="layout 'mvtec' has no option 'god'; it has none"):
        find_samples("mvtec", trees["mvtec"], "bottle", {"god": "x"})


@pytest.mark.parametrize("layout", ["mvtec", "table", "visa"])
def test_the_work_for_a_category_does_not_grow_with_their_number(layout, trees, monkeypatch):
    """Each lists no other category, and a table is read once for all of them."""
    find(trees, layout)

    def refuse(*_):
        raise AssertionError("all categories are looked at again")

    monkeypatch.setattr(_files, "category_names", refuse)
    monkeypatch.setattr(tables, "_read_csv", refuse)
    assert find(trees, layout)
