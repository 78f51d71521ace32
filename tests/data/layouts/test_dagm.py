import shutil

import numpy as np
import pytest
from trees import count_by_label, draw_image, save, touch

from lightning_ad.data.layouts import find_samples
from lightning_ad.errors import DataError

CATEGORY = "Class1"


def draw_tree(root):
    """Labels of defective images alone, and Labels.txt."""
    rng = np.random.default_rng(11)
    for split, good, bad in (("Train", 5, 2), ("Test", 3, 2)):
        folder = root / CATEGORY / split
        lines = ["1"]
        for number in range(1, good + bad + 1):
            is_bad = number > good
            mask = draw_image(folder / f"{number:04d}.PNG", rng, spot=is_bad)
            if is_bad:
                save(mask, folder / f"Label/{number:04d}_label.PNG")
            label = f"{number:04d}_label.PNG" if is_bad else "0"
            lines.append(f"{number}\t{int(is_bad)}\t{number:04d}.PNG\t0\t{label}")
        (folder / "Label/Labels.txt").write_text("\n".join(lines) + "\n")


def test_the_published_counts(tmp_path):
    """In all; which class lacks the four that are in Test more often is not published."""
    sizes = {f"Class{k}": 1 if k < 7 else 2 for k in range(1, 11)}
    for name, times in sizes.items():
        for split in ("Train", "Test"):
            touch(tmp_path / name / split, 575 * times, "{:04d}.PNG")
            bad = 75 * times + {"Class10 Train": -4, "Class10 Test": 4}.get(f"{name} {split}", 0)
            touch(tmp_path / name / split / "Label", bad, "{:04d}_label.PNG")
    found = count_by_label("dagm", tmp_path, sizes)
    assert found == {("train", 0): 8050 - 1046, ("test", 0): 8050 - 1054, ("test", 1): 1054}


def test_labels_must_agree_with_the_table(trees, tmp_path):
    root = shutil.copytree(trees["dagm"], tmp_path / "dagm")
    (root / "Class1/Test/Label/0004_label.PNG").unlink()
    with pytest.raises(DataError, match=r"Labels\.txt.*do not agree on 0004"):
        find_samples("dagm", root, CATEGORY, {})


def test_a_list_in_utf_16_is_read_and_one_that_is_no_text_is_a_sentence(trees, tmp_path):
    root = shutil.copytree(trees["dagm"], tmp_path / "dagm")
    table = root / CATEGORY / "Test/Label/Labels.txt"
    table.write_text(table.read_text(), encoding="utf-16")
    assert find_samples("dagm", root, CATEGORY, {})
    table.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"Labels\.txt and the labels beside it do not agree"):
        find_samples("dagm", root, CATEGORY, {})
    table.write_bytes(b"\xff\xfe0")
    with pytest.raises(DataError, match=r"Labels\.txt is no text"):
        find_samples("dagm", root, CATEGORY, {})
