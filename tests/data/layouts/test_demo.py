from functools import partial

import pytest

from lightning_ad.data import demo
from lightning_ad.data.layouts import find_samples, prepare_layout
from lightning_ad.errors import DataError, UsageError


@pytest.fixture
def drawn(monkeypatch):
    """Makes the demo small; returns the folders in which it was drawn."""
    folders = []
    draw = partial(demo.draw_demo, size=32, train=2, good=1, per_defect=1)

    def drawing(root):
        folders.append(root)
        draw(root)

    monkeypatch.setattr(demo, "draw_demo", drawing)
    return folders


def test_the_demo_is_drawn_once(drawn, tmp_path):
    root = tmp_path / "demo"
    prepare_layout("demo", root)
    prepare_layout("demo", root)
    assert len(drawn) == 1
    samples = find_samples("demo", root, None, {})
    assert sum(sample.split == "train" for sample in samples) == 2
    assert {sample.defect for sample in samples if sample.label} == set(demo.DEFECTS)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_what_another_version_has_drawn_is_drawn_again(drawn, tmp_path):
    root = tmp_path / "demo"
    prepare_layout("demo", root)
    (root / "drawn_by.txt").write_text("another version")
    (root / "train/good/999.png").touch()
    prepare_layout("demo", root)
    assert len(drawn) == 2
    assert not (root / "train/good/999.png").exists()


def test_what_was_drawn_in_part_is_drawn_again(drawn, tmp_path):
    root = tmp_path / "demo"
    partial_root = tmp_path / "demo.partial"
    (partial_root / "train/good").mkdir(parents=True)
    (partial_root / "train/good/999.png").touch()
    prepare_layout("demo", root)
    assert not (root / "train/good/999.png").exists()
    assert not partial_root.exists()


def test_other_files_are_not_overwritten(drawn, tmp_path):
    (tmp_path / "mine.png").touch()
    with pytest.raises(DataError, match="holds files that are not the demo's"):
        prepare_layout("demo", tmp_path)
    assert not drawn
    assert (tmp_path / "mine.png").exists()


def test_there_are_no_categories(drawn, tmp_path):
    prepare_layout("demo", tmp_path / "demo")
    with pytest.raises(UsageError, match="nonsense"):
        find_samples("demo", tmp_path / "demo", "nonsense", {})
