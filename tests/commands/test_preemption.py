"""Told to stop by a signal, and resumed: the same bits as a run that nobody stopped."""

import os
import re
import shutil
import signal

import pytest
from runs import assert_same_weights, flags, logged, metrics_of, script
from small import RESUMABLE

from lightning_ad.__main__ import start
from lightning_ad.cli.messages import run
from lightning_ad.commands.train import train
from lightning_ad.errors import Preempted, UserError
from lightning_ad.methods import fit_progress
from lightning_ad.reporting import summary
from lightning_ad.system.signals import STOP_SIGNALS, StopAtOnce, restore_handlers

TILES = ["--data.image_size", "96", "--data.tile", "64", "--data.tile_overlap", "32"]
TILES += ["--data.num_workers", "2"]
AVERAGE = ["--trainer.callbacks+", "lightning_ad.callbacks.StepsAveraging"]
ACCUMULATED = ["--trainer.accumulate_grad_batches", "2", "--data.batch_size", "2"]
VALIDATED = ["--data.validation", "holdout", "--data.validation_share", "0.3"]
VALIDATED += ["--data.batch_size", "1"]
VALIDATED += ["--trainer.val_check_interval", "2", "--select", "validation_loss"]
CASES = {  # method, flags, after which step, where it stops
    "cfa": ("CFA", [], 5, "after batch 2 of epoch 2"),
    "draem": ("DRAEM", AVERAGE, 5, "after batch 2 of epoch 2"),
    "draem-between-epochs": ("DRAEM", [], 3, "after epoch 1"),
    "draem-tiles": ("DRAEM", TILES, 13, "after batch 3 of epoch 2"),
    "draem-validated": (
        "DRAEM",
        VALIDATED,
        7,
        "after batch 3 of epoch 2",
    ),  # after batch 2, a validation is due
    "pfm-accumulated": ("PFM", ACCUMULATED, 1, "after batch 2 of epoch 1"),
}


def stopped_by(name, **when):
    kill = ["--trainer.callbacks+", "faults.KillAt", "--trainer.callbacks.name", name]
    return [
        *kill,
        *(
            part
            for key, value in when.items()
            for part in (f"--trainer.callbacks.{key}", str(value))
        ),
    ]


@pytest.mark.parametrize("case", CASES)
def test_stopped_in_an_epoch(case, trees, tmp_path):
    method, more, step, where = CASES[case]

    def args(output):
        return [*flags(method, "mvtec", trees, tmp_path / output), *more]

    with pytest.raises(Preempted, match=f"SIGTERM: stopped {where}: --resume goes on from there"):
        train([*args("a"), *stopped_by("SIGTERM", step=step)])
    resumed, whole = train([*args("a"), "--resume"]).path, train(args("b")).path
    assert resumed.relative_to(tmp_path / "a") == whole.relative_to(tmp_path / "b")
    assert_same_weights(resumed, whole)
    assert metrics_of(resumed) == metrics_of(whole)
    # no batch twice, none left out
    assert [*logged(resumed, "loss"), *logged(resumed, "loss", "version_1")] == logged(
        whole, "loss"
    )
    if "--select" in more:
        checked = [
            *logged(resumed, "validation_loss"),
            *logged(resumed, "validation_loss", "version_1"),
        ]
        assert checked == logged(whole, "validation_loss")
        assert len(checked) == 4


@pytest.mark.distributed
def test_one_process_is_told_and_both_stop(trees, tmp_path):
    args = [*flags("DRAEM", "mvtec", {"mvtec": trees["even"]}, tmp_path), "--trainer.devices", "2"]
    stopped = script("train.py", [*args, *stopped_by("SIGUSR1", step=1, rank=1)])
    assert stopped.returncode == 75, stopped.stderr
    assert stopped.stderr.count("SIGUSR1: stopped after batch 1 of epoch 1") == 1
    resumed = script("train.py", [*args, "--resume"])
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize(
    "name", ["SIGTERM", "SIGINT"]
)  # a terminal sends Ctrl+C to the whole job, too
def test_a_signal_to_the_whole_job_leaves_the_workers_alone(name, trees, tmp_path):
    args = [*flags("DRAEM", "mvtec", trees, tmp_path), "--data.num_workers", "2"]
    stopped = script("train.py", [*args, *stopped_by(name, step=4, job="true")])
    assert stopped.returncode == 75, stopped.stderr
    assert (
        f"{name}: stopped after batch 1 of epoch 2: --resume goes on from there" in stopped.stderr
    )
    assert stopped.stderr.count("Ctrl+C again: at once") == (name == "SIGINT")


def test_a_second_interrupt_ends_the_run_at_once(trees, tmp_path, capfd, interruptible):
    twice = [*stopped_by("SIGINT", step=4), "--trainer.callbacks.again", "true"]
    args = flags("DRAEM", "mvtec", trees, tmp_path)
    assert run(lambda: train([*args, *twice])) == 130
    assert re.search(
        r"error: interrupted; \S+ is unfinished, --resume goes on with it", capfd.readouterr().err
    )
    assert train([*args, "--resume"]).finished


@pytest.mark.parametrize("method", ["PatchCore", "DRAEM"])
def test_stopped_in_the_test(method, trees, tmp_path):
    args = flags(method, "mvtec", trees, tmp_path)
    with pytest.raises(Preempted, match="SIGTERM: stopped in the test: --resume tests again"):
        train([*args, *stopped_by("SIGTERM", test_batch=0)])
    resumed = train([*args, "--resume"])
    assert resumed.finished
    assert [p.name for p in resumed.path.parent.iterdir()] == ["version_0"]


@pytest.mark.parametrize("method", RESUMABLE)
def test_a_fit_only_method_that_is_stopped_goes_on(method, trees, tmp_path):
    args = flags(method, "mvtec", trees, tmp_path)
    with pytest.raises(Preempted, match="--resume goes on with those that are left"):
        train([*args, *stopped_by("SIGTERM", first="true")])
    assert_same_weights(train([*args, "--resume"]).path, train([*args, "--name", "whole"]).path)


def test_nothing_is_promised_where_nothing_is_kept(trees, tmp_path):
    args = [*flags("DRAEM", "mvtec", trees, tmp_path), "--trainer.enable_checkpointing", "false"]
    with pytest.raises(Preempted, match="SIGTERM: stopped and nothing is kept"):
        train([*args, *stopped_by("SIGTERM", step=1)])


def test_a_selection_that_is_stopped_goes_on(trees, tmp_path):
    args = flags("PatchCore", "mvtec", trees, tmp_path)  # whose last batch is the third
    with pytest.raises(
        Preempted, match=r"after \d+ patches were selected: --resume goes on from there"
    ):
        train([*args, *stopped_by("SIGTERM", batch=2)])
    resumed = train([*args, "--resume"]).path
    assert_same_weights(resumed, train([*args, "--name", "whole"]).path)
    assert not (resumed / "checkpoints/progress").exists()


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("method", "processes"), [("PatchCore", "1"), ("PaDiM", "2")]
)  # sums round otherwise
def test_two_processes_go_on_with_what_each_has_read(method, processes, trees, tmp_path):
    args = [
        *flags(method, "mvtec", trees, tmp_path),
        "--trainer.devices",
        "2",
        "--data.batch_size",
        "1",
    ]
    stopped = script("train.py", [*args, *stopped_by("SIGTERM", batch=1, rank=1)])
    assert stopped.returncode == 75, stopped.stderr
    again = script("train.py", [*args, "--resume"])
    assert (
        "4 training images were read before; the fit goes on with the others"
        in again.stdout + again.stderr
    )
    whole = script("train.py", [*args, "--name", "whole", "--trainer.devices", processes])
    assert whole.returncode == again.returncode == 0, again.stderr
    folder = next(p for p in tmp_path.iterdir() if p.name != "whole") / "version_0"
    assert_same_weights(folder, tmp_path / "whole/version_0")


def test_progress_of_other_images_or_of_another_version_is_refused(trees, tmp_path, monkeypatch):
    root = shutil.copytree(trees["mvtec"], tmp_path / "data")
    args = flags("PaDiM", "mvtec", {"mvtec": root}, tmp_path / "runs")
    with pytest.raises(Preempted):
        train([*args, *stopped_by("SIGTERM", first="true")])
    with monkeypatch.context() as later:
        later.setattr(fit_progress, "FORMAT", 0)
        with pytest.raises(UserError, match="was written by another version"):
            train([*args, "--resume"])
    next((root / "bottle/train/good").glob("*.png")).unlink()
    with pytest.raises(UserError, match="was made from other training images"):
        train([*args, "--resume"])


def test_an_interrupt_while_modules_are_imported_is_no_error(interruptible, monkeypatch, capfd):
    def press(module):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_ad.commands.main.import_module", press)
    assert start(["train"]) == 130
    assert capfd.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_stopped_while_modules_are_imported(monkeypatch, capfd):
    def stop(module):
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr("lightning_ad.commands.main.import_module", stop)
    assert start(["train"]) == 75
    assert capfd.readouterr().err == "error: SIGUSR1: stopped before the run began\n"


def test_stopped_at_any_other_moment(trees, tmp_path, monkeypatch, capfd):
    """Before the first batch, after the last one of the test, in the report, and after it."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    args = ["train", *flags("PaDiM", "mvtec", trees, tmp_path)]
    metrics = tmp_path / "padim-mvtec-bottle/version_0/metrics.json"

    def stop_in(name, number, more):
        with monkeypatch.context() as here:
            here.setattr(summary, name, lambda *_: os.kill(os.getpid(), number))
            return start([*args, *more]), capfd.readouterr().err

    try:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # nohup, for one, has SIGHUP ignored
        assert start([*args, *stopped_by("SIGTERM", hook="on_fit_start")]) == 75
        said = capfd.readouterr().err
        assert "error: SIGTERM: stopped before the first batch: --resume begins there" in said
        assert start([*args, "--resume", *stopped_by("SIGHUP", hook="on_test_epoch_end")]) == 75
        assert "error: SIGHUP: stopped in the test: --resume tests again" in capfd.readouterr().err
        code, said = stop_in("write_report", signal.SIGUSR1, ["--resume"])
        assert code == 75
        assert "error: SIGUSR1: stopped in the report: --resume tests again" in said
        assert not metrics.exists()
        code, said = stop_in("show_test", signal.SIGTERM, ["--resume"])
        assert code == 0
        assert metrics.exists()
        assert not (metrics.parent / ".lock").exists()
        assert not StopAtOnce.heard  # nor does a later run of this process stop by it
    finally:
        restore_handlers(before)
