"""The layout of docs/extending.md, as the page prints it."""

import importlib.util
import re
import shutil

import pytest
import yaml
from paths import ROOT
from runs import typed
from trees import layout_tests

from lightning_ad.data import layouts
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.errors import DataError

PAGE = ROOT / "docs/extending.md"


def printed():
    """The files that the section on layouts prints, by their paths."""
    section = PAGE.read_text().partition("## A layout\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", section, re.DOTALL))


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Writes the layout where it is found; returns its test module and the folder of its tree."""
    for path, text in printed().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    added = tmp_path / "lightning_ad/data/layouts"
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(added)])
    path = tmp_path / "tests/data/layouts/test_welds.py"
    spec = importlib.util.spec_from_file_location("test_welds", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.draw_tree(tmp_path / "welds")
    return module, tmp_path / "welds"


def test_all_files_are_printed():
    paths = ["lightning_ad/data/layouts/welds.py", "configs/data/welds.yaml"]
    assert [*printed()] == [*paths, "tests/data/layouts/test_welds.py"]


def test_it_is_registered_by_its_file(example, capsys):
    assert "welds" in layouts.layout_names()
    assert layouts.option_names("welds") == ["test_share", "seed"]
    assert typed("datasets", "check", example[1]) == 0
    assert "by the layout 'welds'" in capsys.readouterr().out


@pytest.mark.parametrize("layout", sorted(layout_tests()))
def test_it_takes_no_tree_of_another_layout(example, trees, layout, capsys):
    assert typed("datasets", "check", trees[layout]) == 0
    assert f"by the layout '{layout}'" in capsys.readouterr().out


def test_its_test_passes(example):
    module, root = example
    module.test_a_share_of_the_sound_seams_are_test_images({"welds": root})


def test_its_configuration_loads_images(example):
    module, root = example
    config = yaml.safe_load(printed()["configs/data/welds.yaml"])["data"]
    data = AnomalyDataModule(**{**config, "root": str(root), "category": module.CATEGORY})
    data.setup()
    (batch,) = data.test_dataloader()
    assert batch.label.sum() == 2
    assert batch.mask.flatten(1).any(1).tolist() == batch.label.bool().tolist()


def test_a_missing_root_shows_its_tree(example):
    shutil.rmtree(example[1])
    with pytest.raises(DataError, match=r"ROOT/<seam>/sound/0001\.png"):
        AnomalyDataModule("welds", str(example[1])).setup()
