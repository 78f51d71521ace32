"""A run on images with names of every kind is finished, stays in its folder, and is evaluated."""

import csv
import os
import re

import numpy as np
import pytest
import yaml
from paths import CONFIGS
from runs import QUIET, metrics_of
from trees import draw_image

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.train import train
from lightning_ad.reporting.tables import read_predictions

ROOT = "Fabrik \udcb1\udcc8::1"  # not UTF-8, as unzip leaves names of a Chinese Windows
NAMES = [
    "a\nb",
    "\x1b]0;owned\a",
    "50% \"of\" 'it'",
    "x" * 251,
    "\u202egnp",
    "c\rd",
    "Größe\\uDCCF",
    "http:|{}[]*?#&<b>",
]
DEFECTS = [
    "../../up",
    "/tmp/absolute",
    '=HYPERLINK("http://x")',
    "a\nb",
    "x" * 300,
    "$\\input x",
    "bad\r",
    ".",
]
CATEGORY = "../-all,\x1b"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data" / ROOT
    rng = np.random.default_rng(0)
    rows = [["path", "split", "defect", "category"]]
    for number in range(4):
        draw_image(root / f"{number}.png", rng)
        rows.append([f"{number}.png", "train" if number < 2 else "test", "good", CATEGORY])
        draw_image(root / f"added/{number}.png", rng)
    os.rename(root / "added/3.png", root / "added/\udccf\udcdd.png")
    for name, defect in zip(NAMES, DEFECTS, strict=True):
        draw_image(root / "bad.png", rng, spot=True)
        os.rename(root / "bad.png", root / f"{name}.png")
        rows.append([f"{name}.png", "test", defect, CATEGORY])
    with (root / "samples.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    return root


def test_a_run_on_names_of_every_kind(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["--config", f"{CONFIGS}/padim.yaml", "--config", f"{CONFIGS}/data/table.yaml"]
    args += ["--model.backbone", "squeezenet1_1", "--model.weights", "null"]
    args += ["--model.dimension", "10", "--data.image_size", "32", "--data.center_crop", "null"]
    args += ["--data.num_workers", "0", "--data.root", str(root), "--data.category", CATEGORY]
    args += ["--data.train_folder", str(root / "added"), "--suspects", "true"]
    folder = train([*args, "--output", "runs", *QUIET]).path
    assert "\x1b" not in capsys.readouterr().out

    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "runs"]
    assert [path.name for path in root.parent.iterdir()] == [ROOT]
    rows = read_predictions(folder / "predictions.csv")
    assert {row.path for row in rows if row.label} == {str(root / f"{name}.png") for name in NAMES}
    assert {row.defect for row in rows if row.label} == {defect.strip() for defect in DEFECTS}
    for row in rows:
        assert re.fullmatch(r"maps/[^/]+/[^/]+\.png", row.map_path)
        assert (folder / row.map_path).is_file()
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["root"] == str(root)
    assert (folder / "report.html").read_text(encoding="utf-8")

    again = evaluate([str(folder), *QUIET]).path
    assert metrics_of(again) == metrics_of(folder)
