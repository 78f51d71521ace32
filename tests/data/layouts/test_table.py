import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from trees import count_by_label, draw_image, draw_pair

from lightning_ad.data.layouts import categories, find_samples
from lightning_ad.errors import DataError, UsageError, UserError

CATEGORY = "a"


def draw_tree(root):
    """Images of two categories, in folders of no order."""
    rng = np.random.default_rng(12)
    rows = [["path", "split", "label", "mask", "defect", "category"]]
    for number in range(7):
        draw_image(root / f"all/{number}.png", rng)
        split = "train" if number < 5 else "test"
        rows.append([f"all/{number}.png", split, "good", "", "", "a"])
    for number in range(2):
        image, mask = f"all/bad{number}.png", f"masks/bad{number}.png"
        draw_pair(root / image, root / mask, rng)
        rows.append([image, "test", "anomalous", mask, "dent", "a"])
    draw_image(root / "all/other.png", rng)
    rows.append(["all/other.png", "train", "0", "", "", "b"])
    with (root / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write(root, *rows, name="samples.csv"):
    (root / name).write_text("\n".join(["path,split,label,mask,defect", *rows]) + "\n")


def test_one_category_or_all(trees):
    root = trees["table"]
    some = count_by_label("table", root, ["a"])
    assert some == {("train", 0): 5, ("test", 0): 2, ("test", 1): 2}
    message = "has the categories a, b, and all of them are taken for one part"
    with pytest.warns(UserWarning, match=message):
        everything = count_by_label("table", root, [None])
    assert everything["train", 0] == 6
    samples = find_samples("table", root, "a", {})
    assert {sample.defect for sample in samples if sample.label} == {"dent"}
    with pytest.raises(UsageError, match="no row of category 'c'; its categories: a, b"):
        find_samples("table", root, "c", {})


def test_a_parquet_table_is_the_csv(trees, tmp_path):
    parquet, table = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow.csv")
    root = shutil.copytree(trees["table"], tmp_path / "table")
    parquet.write_table(table.read_csv(root / "samples.csv"), root / "samples.parquet")
    assert find_samples("table", root, "a", {"file": "samples.parquet"}) == find_samples(
        "table", root, "a", {}
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "a.png,training,good,,",
            r"line 3: split: expected train, validation, test, got 'training'",
        ),
        ("a.png,test,ok,,", r"line 3: label: expected good \(0\) or anomalous \(1\), got 'ok'"),
        ("a.png,train,1,,", "line 3: an anomalous image is for test or validation"),
        ("a.png,test,good,,dent", "label 'good' and defect 'dent' do not agree"),
        ("../a.png,test,good,,", r"\.\./a\.png lies outside"),
        ("a.png,test,1,/etc/b.png,", r"/etc/b\.png lies outside"),
        (",test,good,,", "line 3: no path"),
    ],
)
def test_wrong_rows_of_a_table(tmp_path, row, message):
    write(tmp_path, "0.png,train,good,,", row)
    with pytest.raises(DataError, match=message):
        find_samples("table", tmp_path, None, {})


def test_a_table_may_lead_outside_if_the_user_says_so(tmp_path):
    write(tmp_path, "../a.png,train,,,good", "b.png,test,,,dent")
    samples = find_samples("table", tmp_path, None, {"outside": "true"})
    assert {(s.split, s.defect) for s in samples} == {("train", "good"), ("test", "dent")}


def test_missing_tables_and_columns(tmp_path):
    with pytest.raises(DataError, match=r"no table .*samples\.csv"):
        find_samples("table", tmp_path, None, {})
    (tmp_path / "samples.csv").write_text("path,label\na,good\n")
    with pytest.raises(
        DataError, match="needs the columns path, split, and label or defect; it has"
    ):
        find_samples("table", tmp_path, None, {})


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(UserError, match="Parquet needs pyarrow"):
        find_samples("table", tmp_path, None, {"file": "a.parquet"})


def test_the_categories_of_a_table(trees, tmp_path):
    root = shutil.copytree(trees["table"], tmp_path / "table")
    assert categories("table", root) == ["a", "b"]
    (root / "samples.csv").rename(root / "other.csv")
    assert categories("table", root, {"file": "other.csv", "outside": True}) == ["a", "b"]
    write(root, "0.png,train,good,,")
    assert categories("table", root) == []


def test_a_table_may_have_anomalous_validation_images(tmp_path):
    write(tmp_path, "0.png,train,,,Normal", "1.png,validation,1,,dent", "2.png,validation,0,,good")
    found = {
        Path(s.path).name: (s.split, s.defect) for s in find_samples("table", tmp_path, None, {})
    }
    assert found == {
        "0.png": ("train", "good"),
        "1.png": ("validation", "dent"),
        "2.png": ("validation", "good"),
    }
