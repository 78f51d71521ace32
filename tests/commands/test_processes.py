"""Several processes give the result of one."""

import csv
import re

import pytest
from lightning.pytorch.utilities import rank_zero_only
from runs import (
    QUIET,
    assert_same_weights,
    flags,
    logged,
    metrics_of,
    script,
)

from lightning_ad.commands.train import train


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
@pytest.mark.parametrize(
    ("method", "tree"),  # 8 images, and 7: one process fills up its last batch
    [("DRAEM", "even"), ("DRAEM", "mvtec"), ("PFM", "even"), ("PFM", "mvtec"), ("CFA", "mvtec")],
)
def test_two_processes_with_half_the_batch_have_the_loss_curve_of_one(
    method, tree, trees, tmp_path
):
    args = [*flags(method, "mvtec", {"mvtec": trees[tree]}, tmp_path), "--trainer.max_epochs", "4"]
    # CFA's own learning rate diverges on so few images, and divergence multiplies every rounding.
    args += ["--model.learning_rate", "1e-4"] if method == "CFA" else ["--model.norm", "group"]
    train([*args, "--name", "one", "--data.batch_size", "4"])
    result = script(
        "train.py", [*args, "--name", "two", "--data.batch_size", "2", "--trainer.devices", "2"]
    )
    assert result.returncode == 0, result.stderr
    one, two = (logged(tmp_path / name / "version_0", "loss") for name in ("one", "two"))
    assert len(one) == 8
    assert one[0] != one[-1]
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.distributed
def test_draem_trains_and_evaluates_on_two_processes(trees, tmp_path):
    held_out = [
        "--select",
        "validation_loss",
        "--data.validation",
        "holdout",
        "--data.validation_share",
        "0.3",
    ]
    result = script(
        "train.py", [*flags("DRAEM", "mvtec", trees, tmp_path), *held_out, "--trainer.devices", "2"]
    )
    assert result.returncode == 0, result.stderr
    assert re.search(
        r"^note: \d held-out good images give p-values down to", result.stderr, re.MULTILINE
    )
    folder = tmp_path / "draem-mvtec-bottle/version_0"
    assert (folder / "checkpoints/best.ckpt").is_file()
    again = script("evaluate.py", [str(folder), "--trainer.devices", "2", *QUIET])
    assert again.returncode == 0, again.stderr
    assert metrics_of(folder / "evaluations/version_0") == pytest.approx(
        metrics_of(folder), abs=1e-6
    )


@pytest.mark.distributed
def test_a_loss_that_is_not_finite_on_one_process_stops_both(trees, tmp_path):
    """Only the images of the process that has it are named, and once."""
    spoil = [
        "--trainer.callbacks+",
        "faults.SpoilImages",
        "--trainer.callbacks.step",
        "2",
        "--trainer.callbacks.rank",
        "1",
    ]
    args = [
        *flags("DRAEM", "mvtec", {"mvtec": trees["even"]}, tmp_path),
        "--data.batch_size",
        "2",
        *spoil,
    ]
    result = script("train.py", [*args, "--trainer.devices", "2"])
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("the loss is nan on") == 1
    named = result.stderr.partition("the loss is nan on")[2].partition(" (epoch 1, step 2)")[0]
    assert named.count(".png") == 2
    assert "last good checkpoint is" in result.stderr
    assert "last.ckpt" in result.stderr


def test_a_task_of_srun_with_one_device_writes_a_whole_run(trees, tmp_path, monkeypatch):
    """Task 2 of 4, each a run of its own: it was taken for the third process of one run."""
    task = {"JOB_ID": 7, "JOB_NAME": "sweep", "NTASKS": 4, "NTASKS_PER_NODE": 4, "NODEID": 0}
    for name, value in {**task, "PROCID": 2, "LOCALID": 2, "NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setattr(rank_zero_only, "rank", 2)  # as Lightning finds it at its import
    folder = train([*flags("PaDiM", "mvtec", trees, tmp_path), "--name", "task"]).path
    assert folder == tmp_path / "task/version_0"
    assert metrics_of(folder).keys()
    files = {file.name for file in folder.rglob("*") if file.is_file()}
    assert {"config.yaml", "last.ckpt", "report.html", "metrics.csv"} <= files
