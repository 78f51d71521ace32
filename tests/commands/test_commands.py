"""The commands as a user types them: every config, run folder, evaluation, preview, --extend."""

import csv
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Union, get_args

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from runs import (
    CONFIGS,
    DATA_SETS,
    METHODS,
    QUIET,
    assert_same_weights,
    config_of,
    flags,
    logged,
    method_of,
    metrics_of,
    weights_of,
)
from trees import draw_image

from lightning_ad.cli.parser import Parser, whole_numbers_first
from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.preview import preview
from lightning_ad.commands.train import train
from lightning_ad.data import demo
from lightning_ad.errors import UsageError, UserError
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.reporting.maps import read_map


def is_main(config):
    """Whether it is the method's own configuration, and not another one of it."""
    return config == config_of(method_of(config))


def test_every_config_is_covered():
    sweeps = CONFIGS.glob("sweeps/*.yaml")  # tests/reporting/test_dashboards.py
    covered = {CONFIGS / "demo.yaml", CONFIGS / "data/demo.yaml", *METHODS, *DATA_SETS, *sweeps}
    assert covered == set(CONFIGS.rglob("*.yaml"))


def assert_metrics_of_a_run(folder):
    metrics = metrics_of(folder)
    assert {*metrics} >= {*METRIC_NAMES}
    assert all(0 <= metrics[name] <= 1 for name in METRIC_NAMES)


@pytest.mark.parametrize("config", [c for c in METHODS if not is_main(c)], ids=lambda p: p.stem)
def test_other_configs_of_a_method(config, trees, tmp_path):
    assert_metrics_of_a_run(train(flags(method_of(config), "mvtec", trees, tmp_path, config)).path)


@pytest.mark.parametrize("config", DATA_SETS, ids=lambda p: p.stem)
def test_data_configs(config, trees, tmp_path):
    folder = train(flags("PatchCore", config.stem, trees, tmp_path)).path
    assert all(value is not None for value in metrics_of(folder).values())


def test_the_demo_config(tmp_path, monkeypatch):
    few = partial(demo.draw_demo, train=8, good=2, per_defect=1)
    monkeypatch.setattr(demo, "draw_demo", few)
    folder = train(["--data.root", str(tmp_path / "demo"), "--output", str(tmp_path), *QUIET]).path
    assert folder.parent.name.endswith("-demo")
    assert (folder / "report.html").is_file()


def test_the_run_folder_holds_what_the_design_says(trees, tmp_path, capsys):
    args = flags("PatchCore", "mtd", trees, tmp_path)
    folder = train(args).path
    printed = capsys.readouterr().out
    assert folder == tmp_path / "patchcore-mtd/version_0"
    files = {"config.yaml", "metrics.json", "predictions.csv", "report.html"}
    assert {p.name for p in folder.iterdir()} >= {*files, "checkpoints", "maps", "logs"}
    stored = metrics_of(folder)
    assert {*stored} >= {*METRIC_NAMES}
    width = max(map(len, stored))
    for name, value in stored.items():
        assert f"\n{name:<{width}}  {value:.6f}" in printed
    assert str(folder / "report.html") in printed

    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert list(rows[0])[:6] == ["path", "label", "defect", "score", "p_value", "anomalous"]
    assert len(rows) == 7
    for row in rows:
        assert read_map(folder / row["map"]).shape == (64, 64)
    content = json.loads((folder / "metrics.json").read_text())
    assert content["counts"]["test_anomalous"] == 6
    assert content["seconds"].keys() == {"fit", "test", "report"}
    assert content["peak_memory_gib"]["host"] > 0
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]

    again = train(
        ["--config", str(folder / "config.yaml"), "--output", str(tmp_path / "again")]
    ).path
    assert metrics_of(again) == stored
    assert_same_weights(again, folder)


@pytest.mark.parametrize("config", filter(is_main, METHODS), ids=lambda p: p.stem)
def test_method_configs_and_an_evaluation_that_repeats_the_metrics(config, trees, tmp_path):
    folder = train(flags(method_of(config), "mvtec", trees, tmp_path, config)).path
    assert_metrics_of_a_run(folder)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    expected = pytest.approx(metrics_of(folder), abs=1e-6)
    from_folder = evaluate([str(folder.parent), *QUIET]).path
    assert metrics_of(from_folder) == expected
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes((folder / "checkpoints/last.ckpt").read_bytes())
    from_file = evaluate([str(moved), "--output", str(tmp_path / "elsewhere"), *QUIET]).path
    assert metrics_of(from_file) == expected
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_evaluation_on_other_data(trees, tmp_path):
    folder = train(flags("PatchCore", "mvtec", trees, tmp_path)).path
    other = [
        "--data.layout",
        "folder",
        "--data.root",
        str(trees["folder"]),
        "--data.category",
        "null",
    ]
    result = evaluate([str(folder), *other, "--data.layout_options.test_share", "1", *QUIET]).path
    counts = json.loads((result / "metrics.json").read_text())["counts"]
    good = len(list((trees["folder"] / "good").iterdir()))
    assert (counts["test_good"], counts["train"]) == (
        good,
        7,
    )  # it has learned from those of the run


def test_an_optimizer_of_the_users_own(trees, tmp_path):
    own = ["--model.optimizer", "AdamW", "--model.optimizer.lr", "0.01"]
    folder = train(flags("PFM", "mvtec", trees, tmp_path, CONFIGS / "pefm.yaml") + own).path
    assert set(logged(folder, "lr-AdamW/pg1")) == {0.01}


def test_preview_shows_synthetic_anomalies(trees, tmp_path, capsys):
    sheet = tmp_path / "sheets/preview.png"
    args = flags("DRAEM", "mvtec", trees, tmp_path)
    preview([*args, "--file", str(sheet), "--count", "5"])
    assert f"{sheet}: 5 synthetic anomalies" in capsys.readouterr().out
    assert not (tmp_path / "draem-mvtec-bottle").exists()
    with pytest.raises(UsageError, match="PFM trains on good images alone"):
        preview(flags("PFM", "mvtec", trees, tmp_path))
    with pytest.raises(
        UsageError, match=r"none of .* got an anomaly; raise model.anomaly_probability"
    ):
        preview([*args, "--model.anomaly_probability", "0", "--count", "1"])


@pytest.mark.parametrize("method", ["PatchCore", "PaDiM"])
def test_a_finished_run_is_extended(method, trees, tmp_path):
    """Of two runs one after the other, of 7 and of 5 images, the second one has 12."""
    first = train(flags(method, "mvtec", trees, tmp_path)).path
    second = train(
        [
            "--extend",
            str(first),
            "--data.root",
            str(trees["more"]),
            "--output",
            str(tmp_path),
            *QUIET,
        ]
    ).path
    assert second.name == "version_1"
    assert int(weights_of(second)["images"]) == 12
    assert json.loads((second / "metrics.json").read_text())["counts"]["train"] == 12
    assert metrics_of(evaluate([str(second), *QUIET]).path) == pytest.approx(
        metrics_of(second), abs=1e-6
    )
    with pytest.raises(UsageError, match="decides the method"):
        train(["--extend", str(first), "--model.sigma", "1", *QUIET])


def test_a_folder_of_good_images_is_added(trees, tmp_path, capsys):
    """All of them, however deep; what is tested and held out stays that of the run."""
    held = ["--data.validation", "holdout", "--data.validation_share", "0.3"]
    first = train([*flags("PaDiM", "mvtec", trees, tmp_path), *held]).path
    for number in range(5):
        draw_image(
            tmp_path / f"new/shift {number % 2}/{number}.png", np.random.default_rng(100 + number)
        )
    extend = ["--extend", str(first), "--output", str(tmp_path), *QUIET]
    second = train([*extend, "--data.train_folder", str(tmp_path / "new")]).path
    assert "5 images are added to 5" in capsys.readouterr().out
    counts = [json.loads((run / "metrics.json").read_text())["counts"] for run in (first, second)]
    assert [c["train"] for c in counts] == [5, 10]
    assert counts[0]["validation"] == counts[1]["validation"] == 2
    tested = [
        [row["path"] for row in csv.DictReader((run / "predictions.csv").open())]
        for run in (first, second)
    ]
    assert sorted(tested[0]) == sorted(tested[1])
    for wrong, told in (
        ([], "5 of the 5 images that are to be added are in .* already"),
        (
            ["--data.train_folder", str(tmp_path / "new"), "--data.image_size", "32"],
            r"data.image_size 64 \(now 32\)",
        ),
        (["--data.train_folder", str(tmp_path / "none")], "there is no folder .*none"),
    ):
        with pytest.raises(UserError, match=told):
            train([*extend, *wrong])
    assert not (second.parent / "version_2").exists()


def test_an_evaluation_at_another_size_is_told(trees, tmp_path):
    folder = train(flags("PatchCore", "mvtec", trees, tmp_path)).path
    with pytest.warns(UserWarning, match=r"was trained with data.image_size 64 \(now 96\): scores"):
        evaluate([str(folder), "--data.image_size", "96", *QUIET])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "was trained with")
        evaluate([str(folder), "--data.image_size", "[64,64]", "--data.tile_overlap", "32", *QUIET])


def test_maps_of_one_value_are_told(trees, tmp_path):
    with pytest.warns(UserWarning, match="MahalanobisAD scores whole images here"):
        train(flags("MahalanobisAD", "mvtec", trees, tmp_path))


def test_suspects_are_listed_and_trimmed(trees, tmp_path, capsys):
    folder = train([*flags("PaDiM", "mvtec", trees, tmp_path), "--trim", "0.3"]).path
    assert capsys.readouterr().out.count("(2 of 7 are left out)") == 1
    rows = list(csv.DictReader((folder / "suspects.csv").open()))
    assert [row["trimmed"] for row in rows] == ["true"] * 2 + ["false"] * 5
    assert [Path(row["path"]).is_file() for row in rows] == [True] * 7
    with pytest.raises(UsageError, match="is trained, not fitted at once"):
        train([*flags("DRAEM", "mvtec", trees, tmp_path), "--suspects", "true"])


@pytest.mark.parametrize(("given", "meant"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("2", 2)])
def test_one_batch_is_not_all_of_them(given, meant):
    parser = Parser()
    parser.add_lightning_class_args(Trainer, "trainer")
    limit = parser.parse_args([f"--trainer.limit_test_batches={given}"]).trainer.limit_test_batches
    assert (limit, type(limit)) == (meant, type(meant))


def test_unions_try_whole_numbers_first():
    ordered = whole_numbers_first(Union[float, str, int, None])  # noqa: UP007
    assert get_args(ordered) == (int, float, str, type(None))
    for same in (int | float, float | None, list[float | int]):
        assert whole_numbers_first(same) is same
