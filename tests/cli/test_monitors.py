"""Metrics that callbacks wait for are looked up before the fit; callbacks are told apart."""

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from runs import flags

from lightning_ad.cli.monitors import check_callbacks
from lightning_ad.cli.run import RunCLI
from lightning_ad.cli.trainer import RunCheckpoint
from lightning_ad.commands.api import train as train_in_python
from lightning_ad.commands.series import Parts, train_each
from lightning_ad.commands.train import train
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.errors import UsageError
from lightning_ad.methods import DRAEM, PaDiM

HELD_OUT = ["--data.validation", "holdout"]
STOPPING = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor"]
PLATEAU = ["--model.lr_scheduler", "lightning.pytorch.cli.ReduceLROnPlateau"]
PLATEAU += ["--model.lr_scheduler.monitor"]
REFUSED = {
    "unknown": ("DRAEM", [*HELD_OUT, *STOPPING, "val_loss"], "EarlyStopping waits for 'val_loss'"),
    "nothing held out": ("CFA", [*STOPPING, "validation_loss"], "waits for 'validation_loss'"),
    "a test metric": ("PFM", [*HELD_OUT, *STOPPING, "image_AUROC"], "waits for 'image_AUROC'"),
    "no anomalies": ("PaDiM", [*HELD_OUT, *STOPPING, "validation_AUROC"], "validation_score"),
    "a schedule": ("DRAEM", [*PLATEAU, "lost"], "model.lr_scheduler waits for 'lost'"),
    "a checkpoint": (
        "DRAEM",
        ["--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.monitor", "lost"],
        "ModelCheckpoint waits for 'lost'.*loss, gradient_norm, loss_l2, loss_ssim, loss_focal",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_metric_that_is_not_there_is_refused_before_the_fit(trees, tmp_path, case):
    method, more, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        RunCLI([*flags(method, "mvtec", trees, tmp_path), *more])
    assert not list(tmp_path.iterdir())


def test_the_losses_that_are_named_are_those_that_are_logged(trees, tmp_path):
    """And a checkpoint of each epoch, as a user adds it, is written beside the run's own."""
    each = ["--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.save_top_k", "-1"]
    monitored = ["--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.monitor"]
    args = [*flags("DRAEM", "mvtec", trees, tmp_path), "--trainer.max_epochs", "1", *each]
    run = train([*args, *monitored, "loss"])
    assert len(list(run.path.rglob("*.ckpt"))) == 3
    logged = next(run.logs.rglob("metrics.csv")).read_text().splitlines()[0].split(",")
    assert {*DRAEM().loss_names} == {name for name in logged if name.startswith("loss_")}


def test_checkpoints_of_earlier_versions_are_told_by_their_old_name():
    own = RunCheckpoint(monitor="loss")
    theirs = ModelCheckpoint(monitor="loss")
    assert own.state_key != theirs.state_key
    assert own._legacy_state_key == theirs.state_key


def test_callbacks_that_a_checkpoint_cannot_tell_apart():
    stopping = EarlyStopping("loss")
    check_callbacks([stopping, EarlyStopping("other"), ModelCheckpoint()])
    with pytest.raises(UsageError, match="2 of EarlyStopping with the same settings"):
        check_callbacks([stopping, EarlyStopping("loss")])


@pytest.mark.parametrize("method", ["PatchCore", "PaDiM", "DRAEM"])
def test_a_trial_of_two_batches_keeps_nothing(trees, tmp_path, method):
    trial = ["--trainer.fast_dev_run", "2", *HELD_OUT]
    train([*flags(method, "mvtec", trees, tmp_path / "runs"), *trial])
    assert not list(tmp_path.rglob("*.*"))


def test_a_trial_is_refused_where_something_must_be_kept(trees):
    data = AnomalyDataModule("mvtec", str(trees["mvtec"]), "bottle")
    with pytest.raises(UsageError, match="fast_dev_run writes none"):
        train_in_python(PaDiM("squeezenet1_1", None), data, trainer={"fast_dev_run": True})
    words = ["--trainer.fast_dev_run", "1"]
    with pytest.raises(UsageError, match="name one category"):
        train_each(words, Parts("category", ["a", "b"]))
