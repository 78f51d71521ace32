"""What a run says and keeps of how it reads images and masks; and what earlier runs kept."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from deep import deepen
from PIL import Image
from runs import flags, typed

from lightning_ad.cli.resume import check_same, settings_missing_in
from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.train import train
from lightning_ad.errors import DataError, UsageError
from lightning_ad.inspector import load
from lightning_ad.system.checkpoints import CONFIG_KEY
from lightning_ad.system.run_folder import RunFolder

QUIET = ["--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def run(trees, tmp_path_factory):
    """A run on images of 12 bits, one of whose defects lies at the edge, where the crop cuts."""
    folder = tmp_path_factory.mktemp("pixels")
    root = shutil.copytree(trees["mvtec"], folder / "mvtec")
    for path in root.glob("bottle/t*/*/*.png"):
        deepen(path, 12)
    mask = np.zeros((40, 48), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(root / "bottle/ground_truth/broken/001_mask.png")
    words = flags("PaDiM", "mvtec", {"mvtec": root}, folder / "runs")
    with pytest.warns(UserWarning, match=r"crop cuts defects off: 1 of 4 .*broken/001\.png first"):
        return root, train([*words, "--data.center_crop", "48"])


def content(folder):
    return json.loads(folder.metrics.read_text())


def test_the_run_says_its_depth_and_what_the_crop_took(run, capsys):
    _, folder = run
    protocol = content(folder)["protocol"]
    assert protocol["bits"] == 12
    assert protocol["cut_by_crop"]["wholly"] == 1
    assert protocol["cut_by_crop"]["images"] == 4
    config = yaml.safe_load(folder.config.read_text())["data"]
    assert (config["bits"], config["mask_reading"]) == (12, "bright")
    assert "1 of 4 images with a defect lose all of it" in folder.report.read_text()
    assert typed("verify", str(folder.path)) == 0
    capsys.readouterr()


def test_an_inspector_reads_the_depth_of_its_run(run):
    root, folder = run
    path = root / "bottle/test/good/000.png"
    inspect = load(folder.path)
    rows = {row.split(",")[0]: row for row in folder.predictions.read_text().splitlines()}
    assert f"{inspect(path).score:.4g}"[:5] in rows[str(path)]
    with pytest.raises(DataError, match="values up to 5000, and those of 12 bits"):
        inspect(np.full((40, 48), 5000, np.uint16))


def test_a_run_of_an_earlier_version_is_read_as_it_was(run, tmp_path, capsys):
    """Its checkpoint names neither setting: 16 bits, of colour the upper 8."""
    _, folder = run
    old = shutil.copytree(folder.path, tmp_path / "old")
    (checkpoint,) = old.rglob("last.ckpt")
    state = torch.load(checkpoint, weights_only=True)
    config = yaml.safe_load(state[CONFIG_KEY])
    for name in ("bits", "mask_reading"):
        del config["data"][name]
    state[CONFIG_KEY] = yaml.safe_dump(config)
    torch.save(state, checkpoint)
    again = evaluate([str(old), *QUIET, "--output", str(tmp_path / "again")])
    found = yaml.safe_load(again.config.read_text())["data"]
    assert (found["bits"], found["mask_reading"]) == ("legacy", "legacy")
    assert content(again)["metrics"] != content(folder)["metrics"]  # darker by 16
    recorded = content(again)
    for name in ("bits", "cut_by_crop"):
        del recorded["protocol"][name]
    shutil.copytree(again.path, old, dirs_exist_ok=True, ignore=lambda *_: ["config.yaml"])
    (old / "metrics.json").write_text(json.dumps(recorded))
    assert typed("verify", str(old)) == 0
    assert "to the last digit" in capsys.readouterr().out


def test_an_unfinished_run_of_an_earlier_version_goes_on_as_it_was_begun(tmp_path):
    folder = RunFolder.create(tmp_path, "old")
    folder.config.write_text("data:\n  layout: mvtec\n")
    assert settings_missing_in(folder) == {
        "resize": None,
        "bits": "legacy",
        "mask_reading": "legacy",
    }
    config = "data:\n  bits: {}\n  mask_reading: dark\n  resize: linear\n"
    folder.config.write_text(config.format(12))
    assert settings_missing_in(folder) == {}
    check_same(folder, config.format("null"))  # of another process than the first
    with pytest.raises(UsageError, match=r"was begun with data\.bits 12, now it is 10"):
        check_same(folder, config.format(10))
