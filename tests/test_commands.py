"""The commands as a user types them: every config, the run folder, evaluation, resuming, several processes."""

import csv
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from trees import CATEGORIES

from lightning_ad.commands import evaluate, preview, train
from lightning_ad.data import demo
from lightning_ad.errors import UsageError
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.main import evaluate_or_compare
from lightning_ad.reporting.maps import read_map

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
SMALL = {
    "PatchCore": ["--model.backbone", "squeezenet1_1", "--model.weights", "null", "--model.coreset_ratio", "0.05"],
    "PaDiM": ["--model.backbone", "squeezenet1_1", "--model.weights", "null", "--model.dimension", "20"],
    "SPADE": ["--model.backbone", "resnet18", "--model.weights", "null", "--model.k_pixel", "3"],
    "MahalanobisAD": ["--model.backbone", "resnet18", "--model.weights", "null"],
    "CFA": [
        *("--model.backbone", "squeezenet1_1", "--model.weights", "null", "--model.features", "post_relu"),
        *("--trainer.max_epochs", "2"),
    ],
    "DRAEM": ["--model.reconstructive_width", "8", "--model.discriminative_width", "8", "--trainer.max_epochs", "2"],
    "PFM": [
        *("--model.source", "squeezenet1_1", "--model.target", "mobilenet_v2", "--model.latents", "[8,8,8]"),
        *("--model.source_weights", "null", "--model.target_weights", "null", "--trainer.max_epochs", "2"),
    ],
}  # fmt: skip


def method_of(config):
    return yaml.safe_load(config.read_text()).get("model", {}).get("class_path", "").rpartition(".")[2]


METHODS = sorted(p for p in CONFIGS.glob("*.yaml") if method_of(p) and p.stem != "demo")
DATA_SETS = sorted((CONFIGS / "data").glob("*.yaml"))


def flags(method, layout, trees, output, config=None):
    """A small run of a method on a small tree of a layout."""
    data = ["--config", str(CONFIGS / f"data/{layout}.yaml"), "--data.root", str(trees[layout])]
    data += ["--data.category", CATEGORIES[layout]] if layout in CATEGORIES else []
    data += ["--data.image_size", "64", "--data.center_crop", "null", "--data.batch_size", "3"]
    method_flags = ["--config", str(config or CONFIGS / f"{method.lower()}.yaml"), *data, *SMALL[method]]
    return [*method_flags, "--output", str(output), "--data.num_workers", "0", *QUIET]


def script(name, args, timeout=300, **env):
    """Runs train.py or evaluate.py in a process of its own."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [sys.executable, str(ROOT / name), *args], capture_output=True, text=True, timeout=timeout, env=environment
    )


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def weights_of(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def logged(folder, name):
    rows = csv.DictReader((folder / "logs/csv/version_0/metrics.csv").open())
    return [float(row[name]) for row in rows if row[name]]


def assert_same_weights(first, second):
    first, second = weights_of(first), weights_of(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_every_config_is_covered():
    covered = {CONFIGS / "demo.yaml", *METHODS, *DATA_SETS}
    assert covered == set(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("config", METHODS, ids=lambda p: p.stem)
def test_method_configs(config, trees, tmp_path):
    folder = train(flags(method_of(config), "mvtec", trees, tmp_path, config)).path
    assert list(metrics_of(folder)) == list(METRIC_NAMES)
    assert all(0 <= value <= 1 for value in metrics_of(folder).values())


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
    assert {p.name for p in folder.iterdir()} >= {
        "config.yaml", "checkpoints", "metrics.json", "predictions.csv", "maps", "report.html", "logs",
    }  # fmt: skip
    stored = metrics_of(folder)
    for name in METRIC_NAMES:
        assert f"{name:<16}  {stored[name]:.6f}" in printed
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

    again = train(["--config", str(folder / "config.yaml"), "--output", str(tmp_path / "again")]).path
    assert metrics_of(again) == stored
    assert_same_weights(again, folder)


@pytest.mark.parametrize("method", ["PatchCore", "PaDiM", "SPADE", "CFA", "DRAEM", "PFM"])
def test_evaluation_repeats_the_metrics(method, trees, tmp_path):
    folder = train(flags(method, "mvtec", trees, tmp_path)).path
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
    other = ["--data.layout", "folder", "--data.root", str(trees["folder"]), "--data.category", "null"]
    result = evaluate([str(folder), *other, "--data.layout_options.test_share", "1", *QUIET]).path
    counts = json.loads((result / "metrics.json").read_text())["counts"]
    good = len(list((trees["folder"] / "good").iterdir()))
    assert (counts["test_good"], counts["train"]) == (good, 7)  # it has learned from those of the run


def test_held_out_images_give_p_values(trees, tmp_path):
    args = [*flags("PatchCore", "mvtec", trees, tmp_path), "--data.validation", "holdout"]
    rows = list(csv.DictReader((train(args).path / "predictions.csv").open()))
    assert all(float(row["p_value"]) in (0.5, 1.0) for row in rows)
    assert {row["anomalous"] for row in rows} == {""}  # a verdict at 0.01 takes 99 images


def test_verdicts_keep_the_share_that_is_asked_for(trees, tmp_path):
    args = [*flags("PatchCore", "mvtec", trees, tmp_path), "--data.validation", "holdout"]
    folder = train([*args, "--reject", "0.5"]).path
    threshold = json.loads((folder / "metrics.json").read_text())["threshold"]
    for row in csv.DictReader((folder / "predictions.csv").open()):
        assert row["anomalous"] == str(float(row["score"]) > threshold).lower() == str(row["p_value"] == "0.5").lower()
    runs = {p.name for p in (tmp_path / "patchcore-mvtec-bottle").iterdir()}
    with pytest.raises(UsageError, match=r"at most 0\.2 .* takes the scores of 4 held-out .* there are 1"):
        train([*args, "--reject", "0.2"])
    assert {p.name for p in (tmp_path / "patchcore-mvtec-bottle").iterdir()} == runs


RESUMED = {
    "cfa-average": ("CFA", ["--trainer.callbacks+", "lightning_ad.callbacks.StepsAveraging"]),
    "draem": ("DRAEM", []),
    "draem-2-workers": ("DRAEM", ["--data.num_workers", "2"]),
    "draem-best": (
        "DRAEM",
        [
            *("--data.validation", "holdout", "--data.validation_share", "0.3", "--select", "validation_loss"),
            *("--trainer.max_epochs", "4"),
        ],
    ),
    "pfm-scheduler-average": (
        "PFM",
        [
            *("--model.lr_scheduler", "torch.optim.lr_scheduler.ExponentialLR", "--model.lr_scheduler.gamma", "0.5"),
            *("--trainer.accumulate_grad_batches", "2", "--trainer.max_epochs", "4"),
            *("--trainer.callbacks+", "lightning_ad.callbacks.StepsAveraging"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RESUMED)
def test_killed_and_resumed_equals_undisturbed(case, trees, tmp_path):
    method, more = RESUMED[case]

    def args(output):
        return [*flags(method, "mvtec", trees, tmp_path / output), *more]

    killed = script("train.py", [*args("a"), "--trainer.callbacks+", "kill_at.KillAt", "--trainer.callbacks.step", "5"])
    assert killed.returncode == -9, killed.stderr
    name = f"{method.lower()}-mvtec-bottle/version_0"
    folder = tmp_path / "a" / name
    assert not (folder / "metrics.json").exists()
    resumed = script("train.py", [*args("a"), "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    undisturbed = script("train.py", args("b"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert [p.name for p in folder.parent.iterdir()] == ["version_0"]
    kept = {"last.ckpt", "best.ckpt"} if "--select" in more else {"last.ckpt"}
    assert {p.name for p in (folder / "checkpoints").iterdir()} == kept
    assert_same_weights(folder, tmp_path / "b" / name)
    assert metrics_of(folder) == metrics_of(tmp_path / "b" / name)


def test_the_best_epoch_is_chosen_without_a_test_image(trees, tmp_path):
    chosen = [*flags("DRAEM", "mvtec", trees, tmp_path), "--select", "validation_loss", "--data.validation", "holdout"]
    held_out = ["--data.validation_share", "0.3", "--data.validation_anomalies", "true", "--trainer.max_epochs", "4"]
    # A learning rate that grows, so that the loss goes up again.
    growing = ["--model.lr_scheduler", "torch.optim.lr_scheduler.ExponentialLR", "--model.lr_scheduler.gamma", "10"]
    folder = train([*chosen, *held_out, *growing]).path
    losses = logged(folder, "validation_loss")
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == losses.index(min(losses)) < 3
    assert len(logged(folder, "validation_AUROC")) == len(losses) == 4
    assert json.loads((folder / "metrics.json").read_text())["checkpoint"].endswith("best.ckpt")
    again = evaluate([str(folder), *QUIET]).path
    assert metrics_of(again) == pytest.approx(metrics_of(folder), abs=1e-6)


AVERAGED = ["--trainer.callbacks+", "lightning_ad.callbacks.StepsAveraging", "--trainer.callbacks.decay", "0.5"]


def test_the_best_average_is_what_is_tested_and_kept(trees, tmp_path):
    held_out = ["--select", "validation_loss", "--data.validation", "holdout", "--data.validation_share", "0.3"]
    folder = train([*flags("PFM", "mvtec", trees, tmp_path), *held_out, *AVERAGED]).path
    assert metrics_of(evaluate([str(folder), *QUIET]).path) == pytest.approx(metrics_of(folder), abs=1e-6)


def test_killed_in_its_test_and_resumed_tests_the_average(trees, tmp_path):
    args = [*flags("PFM", "mvtec", trees, tmp_path), *AVERAGED]
    killed = script(
        "train.py", [*args, "--trainer.callbacks+", "kill_at.KillAt", "--trainer.callbacks.test_batch", "1"]
    )
    assert killed.returncode == -9, killed.stderr
    resumed = script("train.py", [*args, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    folder = tmp_path / "pfm-mvtec-bottle/version_0"
    assert metrics_of(evaluate([str(folder), *QUIET]).path) == pytest.approx(metrics_of(folder), abs=1e-6)


def test_an_optimizer_of_the_users_own(trees, tmp_path):
    own = ["--model.optimizer", "AdamW", "--model.optimizer.lr", "0.01"]
    folder = train(flags("PFM", "mvtec", trees, tmp_path, CONFIGS / "pefm.yaml") + own).path
    assert set(logged(folder, "lr-AdamW/pg1")) == {0.01}


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (["--select", "validation_loss"], "needs held-out images: add --data.validation holdout"),
        (["--select", "validation_AUROC", "--data.validation", "holdout"], "add --data.validation_anomalies true"),
        (["--select", "validation_loss", "--trainer.enable_checkpointing", "false"], "needs checkpoints"),
        (["--data.validation_anomalies", "true"], "set data.validation, to holdout say"),
    ],
)
def test_selections_that_cannot_be_made(wish, message, trees, tmp_path):
    with pytest.raises(UsageError, match=message):
        train([*flags("DRAEM", "mvtec", trees, tmp_path), *wish])
    assert not list(tmp_path.rglob("metrics.json"))


def test_preview_shows_synthetic_anomalies(trees, tmp_path, capsys):
    sheet = tmp_path / "sheets/preview.png"
    args = flags("DRAEM", "mvtec", trees, tmp_path)
    preview([*args, "--file", str(sheet), "--count", "5"])
    assert f"{sheet}: 5 synthetic anomalies" in capsys.readouterr().out
    assert not (tmp_path / "draem-mvtec-bottle").exists()
    with pytest.raises(UsageError, match="PFM trains on good images alone"):
        preview(flags("PFM", "mvtec", trees, tmp_path))
    with pytest.raises(UsageError, match=r"none of .* got an anomaly; raise model.anomaly_probability"):
        preview([*args, "--model.anomaly_probability", "0", "--count", "1"])


@pytest.mark.distributed
def test_patchcore_on_two_processes_equals_one(trees, tmp_path):
    args = [*flags("PatchCore", "mvtec", trees, tmp_path), "--data.batch_size", "2"]
    one = train([*args, "--name", "one"]).path
    result = script("train.py", [*args, "--name", "two", "--trainer.devices", "2"])
    assert result.returncode == 0, result.stderr
    two = tmp_path / "two/version_0"
    assert_same_weights(one, two)
    assert metrics_of(two) == pytest.approx(metrics_of(one), abs=1e-9)
    assert len(list(csv.DictReader((two / "predictions.csv").open()))) == 7


@pytest.mark.distributed
@pytest.mark.parametrize("method", ["DRAEM", "PFM"])
def test_two_processes_with_half_the_batch_have_the_loss_curve_of_one(method, trees, tmp_path):
    args = [
        *flags(method, "mvtec", {"mvtec": trees["even"]}, tmp_path),
        "--model.norm",
        "group",
        "--trainer.max_epochs",
        "4",
    ]
    train([*args, "--name", "one", "--data.batch_size", "4"])
    result = script("train.py", [*args, "--name", "two", "--data.batch_size", "2", "--trainer.devices", "2"])
    assert result.returncode == 0, result.stderr
    one, two = (logged(tmp_path / name / "version_0", "loss") for name in ("one", "two"))
    assert len(one) == 8
    assert one[0] != one[-1]
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.distributed
def test_draem_trains_and_evaluates_on_two_processes(trees, tmp_path):
    held_out = ["--select", "validation_loss", "--data.validation", "holdout", "--data.validation_share", "0.3"]
    result = script("train.py", [*flags("DRAEM", "mvtec", trees, tmp_path), *held_out, "--trainer.devices", "2"])
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "draem-mvtec-bottle/version_0"
    assert (folder / "checkpoints/best.ckpt").is_file()
    again = script("evaluate.py", [str(folder), "--trainer.devices", "2", *QUIET])
    assert again.returncode == 0, again.stderr
    assert metrics_of(folder / "evaluations/version_0") == pytest.approx(metrics_of(folder), abs=1e-6)


@pytest.mark.parametrize("method", ["PatchCore", "PaDiM"])
def test_a_finished_run_is_extended(method, trees, tmp_path):
    """Two runs one after the other, of 7 and of 5 images, have 12 in the second one's checkpoint."""
    first = train(flags(method, "mvtec", trees, tmp_path)).path
    second = train(["--extend", str(first), "--data.root", str(trees["more"]), "--output", str(tmp_path), *QUIET]).path
    assert second.name == "version_1"
    assert int(weights_of(second)["images"]) == 12
    assert json.loads((second / "metrics.json").read_text())["counts"]["train"] == 12
    assert metrics_of(evaluate([str(second), *QUIET]).path) == pytest.approx(metrics_of(second), abs=1e-6)
    with pytest.raises(UsageError, match="decides the method"):
        train(["--extend", str(first), "--model.sigma", "1", *QUIET])


def test_suspects_are_listed_and_trimmed(trees, tmp_path):
    folder = train([*flags("PaDiM", "mvtec", trees, tmp_path), "--trim", "0.3"]).path
    rows = list(csv.DictReader((folder / "suspects.csv").open()))
    assert [row["trimmed"] for row in rows] == ["true"] * 2 + ["false"] * 5
    assert [Path(row["path"]).is_file() for row in rows] == [True] * 7
    with pytest.raises(UsageError, match="is trained, not fitted at once"):
        train([*flags("DRAEM", "mvtec", trees, tmp_path), "--suspects", "true"])


def test_a_forecast_comes_first(trees, tmp_path, capsys):
    train(flags("SPADE", "mvtec", trees, tmp_path))
    printed = capsys.readouterr().out
    assert printed.index("Forecast") < printed.index("image_AUROC")
    assert "Reading images" in printed


def test_two_runs_are_compared(trees, tmp_path, capsys):
    first = train(flags("PatchCore", "mtd", trees, tmp_path)).path
    second = train(flags("PaDiM", "mtd", trees, tmp_path)).path
    capsys.readouterr()
    assert evaluate_or_compare(["--compare", str(first.parent), str(second)]) == 0
    printed = capsys.readouterr().out
    a, b = (metrics_of(folder)["image_AUROC"] for folder in (first, second))
    values = f"{a:>9.6f}  {b:>9.6f}  {b - a:>+9.6f}"
    assert re.search(rf"image_AUROC +{re.escape(values)}  \[[-+.\d]+, [-+.\d]+\] +[.\d]+\n", printed)
    assert re.search(r"pixel_AUPRO_0\.30 +[.\d]+ +[.\d]+ +[-+.\d]+\n", printed)
    assert f"A {first}\nB {second}\n" in printed
    other = train(flags("PatchCore", "folder", trees, tmp_path)).path
    with pytest.raises(UsageError, match="tested on different images"):
        evaluate_or_compare(["--compare", str(first), str(other)])
    with pytest.raises(UsageError, match="takes two runs; 1 came"):
        evaluate_or_compare(["--compare", str(first)])
