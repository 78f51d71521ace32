"""Resuming to the same bits, and the epoch that is kept."""

import json
import shutil

import pytest
import torch
from PIL import Image
from runs import (
    QUIET,
    assert_same_weights,
    flags,
    logged,
    metrics_of,
    script,
    weights_of,
)

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.train import train
from lightning_ad.errors import Preempted, UsageError, WeightsError

KILLED = ["--trainer.callbacks+", "faults.KillAt", "--trainer.callbacks.name", "SIGTERM"]
KILLED += ["--trainer.callbacks.step", "1"]
# Flags of the options that several cases share.
HOLDOUT = ["--data.validation", "holdout", "--data.validation_share", "0.3"]
FOUR_EPOCHS = ["--trainer.max_epochs", "4"]
EXPONENTIAL = "torch.optim.lr_scheduler.ExponentialLR"
LAST_EPOCHS = "lightning_ad.callbacks.LastEpochsAveraging"

RESUMED = {
    "cfa-average": ("CFA", ["--trainer.callbacks+", "lightning_ad.callbacks.StepsAveraging"]),
    "draem-2-workers": ("DRAEM", ["--model.lr_milestones", "[0.5]", "--data.num_workers", "2"]),
    "draem-best": (
        "DRAEM",
        [*HOLDOUT, *FOUR_EPOCHS, "--select", "validation_loss"],
    ),
    "draem-plateau": (
        "DRAEM",
        [
            *("--model.lr_scheduler", "lightning.pytorch.cli.ReduceLROnPlateau"),
            *("--model.lr_scheduler.monitor", "validation_loss"),
            *("--model.lr_scheduler.patience", "0"),
            *("--model.lr_scheduler.threshold", "1e9"),  # drops each epoch
            *HOLDOUT,
            *FOUR_EPOCHS,
        ],
    ),
    "pfm-last-epochs": (
        "PFM",
        [
            *("--trainer.callbacks+", LAST_EPOCHS, "--trainer.callbacks.epochs", "2"),
            *("--trainer.max_epochs", "3"),
        ],
    ),
    "pfm-scheduler-average": (
        "PFM",
        [
            *("--model.lr_scheduler", EXPONENTIAL, "--model.lr_scheduler.gamma", "0.5"),
            *("--trainer.accumulate_grad_batches", "2"),
            *FOUR_EPOCHS,
            *("--trainer.callbacks+", "lightning_ad.callbacks.StepsAveraging"),
        ],
    ),
}


@pytest.mark.parametrize("case", RESUMED)
def test_killed_and_resumed_equals_undisturbed(case, trees, tmp_path, one_thread):
    method, more = RESUMED[case]

    def args(output):
        return [*flags(method, "mvtec", trees, tmp_path / output), *more]

    killed = script(
        "train.py",
        [*args("a"), "--trainer.callbacks+", "faults.KillAt", "--trainer.callbacks.step", "5"],
    )
    assert killed.returncode == -9, killed.stderr
    name = f"{method.lower()}-mvtec-bottle/version_0"
    folder = tmp_path / "a" / name
    assert not (folder / "metrics.json").exists()
    train([*args("a"), "--resume"])
    train(args("b"))
    assert [p.name for p in folder.parent.iterdir()] == ["version_0"]
    kept = {"last.ckpt", "best.ckpt"} if "--select" in more else {"last.ckpt"}
    assert {p.name for p in (folder / "checkpoints").iterdir()} == kept
    assert_same_weights(folder, tmp_path / "b" / name)
    assert metrics_of(folder) == metrics_of(tmp_path / "b" / name)


def test_the_best_epoch_is_chosen_without_a_test_image(trees, tmp_path):
    chosen = [
        *flags("DRAEM", "mvtec", trees, tmp_path),
        "--select",
        "validation_loss",
        "--data.validation",
        "holdout",
    ]
    held_out = [
        "--data.validation_share",
        "0.3",
        "--data.validation_anomalies",
        "true",
        "--trainer.max_epochs",
        "4",
    ]
    # A learning rate that grows, so that the loss goes up again.
    growing = [
        "--model.lr_scheduler",
        "torch.optim.lr_scheduler.ExponentialLR",
        "--model.lr_scheduler.gamma",
        "10",
    ]
    folder = train([*chosen, *held_out, *growing]).path
    losses = logged(folder, "validation_loss")
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == losses.index(min(losses)) < 3
    assert len(logged(folder, "validation_AUROC")) == len(losses) == 4
    assert json.loads((folder / "metrics.json").read_text())["checkpoint"].endswith("best.ckpt")
    again = evaluate([str(folder), *QUIET]).path
    assert metrics_of(again) == pytest.approx(metrics_of(folder), abs=1e-6)


AVERAGED = [
    "--trainer.callbacks+",
    "lightning_ad.callbacks.StepsAveraging",
    "--trainer.callbacks.decay",
    "0.5",
]


def test_the_best_average_is_what_is_tested_and_kept(trees, tmp_path):
    held_out = [
        "--select",
        "validation_loss",
        "--data.validation",
        "holdout",
        "--data.validation_share",
        "0.3",
    ]
    folder = train([*flags("PFM", "mvtec", trees, tmp_path), *held_out, *AVERAGED]).path
    assert metrics_of(evaluate([str(folder), *QUIET]).path) == pytest.approx(
        metrics_of(folder), abs=1e-6
    )


def test_killed_in_its_test_and_resumed_tests_the_average(trees, tmp_path):
    args = [*flags("PFM", "mvtec", trees, tmp_path), *AVERAGED]
    killed = script(
        "train.py",
        [*args, "--trainer.callbacks+", "faults.KillAt", "--trainer.callbacks.test_batch", "1"],
    )
    assert killed.returncode == -9, killed.stderr
    resumed = script("train.py", [*args, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    folder = tmp_path / "pfm-mvtec-bottle/version_0"
    assert metrics_of(evaluate([str(folder), *QUIET]).path) == pytest.approx(
        metrics_of(folder), abs=1e-6
    )


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (["--select", "validation_loss"], "needs held-out images: add --data.validation holdout"),
        (
            ["--select", "validation_AUROC", "--data.validation", "holdout"],
            "add --data.validation_anomalies true",
        ),
        (
            ["--select", "validation_loss", "--trainer.enable_checkpointing", "false"],
            "needs checkpoints",
        ),
        (["--data.validation_anomalies", "true"], "set data.validation, to holdout say"),
    ],
)
def test_selections_that_cannot_be_made(wish, message, trees, tmp_path):
    with pytest.raises(UsageError, match=message):
        train([*flags("DRAEM", "mvtec", trees, tmp_path), *wish])
    assert not list(tmp_path.rglob("config.yaml"))


def same_size(path, grey):
    """Saves an image without compression: its file's size does not depend on its pixels."""
    Image.new("RGB", (60, 60), (grey, grey, grey)).save(path, compress_level=0)


def test_other_files_and_a_damaged_checkpoint_are_not_gone_on_with(trees, tmp_path):
    root = shutil.copytree(trees["mvtec"], tmp_path / "data")
    good = root / "bottle/train/good"
    same_size(good / "900.png", 100)
    args = flags("DRAEM", "mvtec", {"mvtec": root}, tmp_path / "runs")
    with pytest.raises(Preempted, match="--resume goes on from there"):
        train([*args, *KILLED])
    folder = next((tmp_path / "runs").glob("*/version_0"))

    def refused(match, error=UsageError):
        with pytest.raises(error, match=match):
            train([*args, "--resume"])
        assert not (folder / ".lock").exists()

    kept = shutil.move(good / "000.png", tmp_path / "kept.png")
    Image.new("RGB", (60, 60)).save(good / "new.png")
    same_size(good / "900.png", 200)
    refused(
        r"was made from other training images: 1 gone \(000.png\), 1 new \(new.png\), 1 changed "
        r"\(900.png\). Put back"
    )
    record = (folder / "training_files.csv").rename(tmp_path / "record.csv")
    refused(r"was made from other training images \(\w{16}; now \w{16}\): put back")  # an old run
    record.rename(folder / "training_files.csv")
    (good / "new.png").unlink()
    same_size(good / "900.png", 100)
    shutil.move(kept, good / "000.png")

    last = folder / "checkpoints/last.ckpt"
    whole = last.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x13garbage" * 500):
        last.write_bytes(damaged)
        refused(r"last\.ckpt.* The run cannot go on from it: put back a copy", WeightsError)
    last.write_bytes(whole)

    mask = next((root / "bottle/ground_truth").rglob("*.png"))
    Image.open(mask).save(mask, compress_level=0)
    with pytest.warns(
        UserWarning, match=r"masks of the test: 1 changed .* tested on those that are"
    ):
        assert train([*args, "--resume"]).finished


def test_a_training_that_was_ended_early_stays_ended(trees, tmp_path):
    """An early stop, then SIGTERM in the test: --resume trained an epoch more before."""
    stop = {"monitor": "loss", "mode": "max", "patience": "1", "min_delta": "1e9"}
    args = [*flags("DRAEM", "mvtec", trees, tmp_path), "--trainer.max_epochs", "6"]
    args += ["--trainer.callbacks+", "EarlyStopping"]
    for name, value in stop.items():
        args += [f"--trainer.callbacks.{name}", value]
    kill = ["--trainer.callbacks+", "faults.KillAt", "--trainer.callbacks.name", "SIGTERM"]
    with pytest.raises(Preempted, match="stopped in the test"):
        train([*args, *kill, "--trainer.callbacks.test_batch", "0"])
    learned = weights_of(tmp_path / "draem-mvtec-bottle/version_0")
    resumed = train([*args, "--resume"]).path
    for name, value in weights_of(resumed).items():
        assert torch.equal(value, learned[name]), name
    kept = torch.load(resumed / "checkpoints/last.ckpt", weights_only=True)
    assert kept["epoch"] == 1
    assert kept["lightning_ad_ended"] is True
