"""Told to stop by a signal, and resumed: the same bits as a run that nobody stopped."""

import pytest
from runs import assert_same_weights, flags, logged, metrics_of, script

CASES = {
    "cfa": ("CFA", []),
    "draem": ("DRAEM", ["--trainer.callbacks+", "lightning_ad.callbacks.StepsAveraging"]),
    "pfm-accumulated": ("PFM", ["--trainer.accumulate_grad_batches", "2", "--data.batch_size", "2"]),
    "draem-between-epochs": ("DRAEM", []),
    "draem-tiles": (
        "DRAEM",
        ["--data.num_workers", "2", "--data.image_size", "96", "--data.tile", "64", "--data.tile_overlap", "32"],
    ),
}


def stopped_at(step, *more):
    return ["--trainer.callbacks+", "kill_at.KillAt", "--trainer.callbacks.step", str(step), *more]


def by(name):
    return ["--trainer.callbacks.name", name]


@pytest.mark.parametrize("case", CASES)
def test_stopped_in_an_epoch(case, trees, tmp_path):
    method, more = CASES[case]
    step = {"draem-between-epochs": 3, "draem-tiles": 13}.get(case, 5)

    def args(output):
        return [*flags(method, "mvtec", trees, tmp_path / output), *more]

    where = ["--trainer.callbacks.first", "true"] if case == "pfm-accumulated" else []
    stopped = script("train.py", [*args("a"), *stopped_at(step, *where, *by("SIGTERM"))])
    assert stopped.returncode == 75, stopped.stderr
    found = {"draem-between-epochs": "epoch 1:", "pfm-accumulated": "batch 2 of epoch 1:", "draem-tiles": "batch 3"}
    assert f"SIGTERM: stopped after {found.get(case, 'batch 2 of epoch 2:')}" in stopped.stderr
    resumed = script("train.py", [*args("a"), "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    undisturbed = script("train.py", args("b"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    name = f"{method.lower()}-mvtec-bottle/version_0"
    assert_same_weights(tmp_path / "a" / name, tmp_path / "b" / name)
    assert metrics_of(tmp_path / "a" / name) == metrics_of(tmp_path / "b" / name)
    before, after, whole = (
        [
            value
            for path in sorted((tmp_path / run / name / "logs/csv").glob(f"version_{version}"))
            for value in logged(tmp_path / run / name, "loss", path.name)
        ]
        for run, version in (("a", 0), ("a", 1), ("b", 0))
    )
    assert [*before, *after] == whole  # no batch twice, none left out


@pytest.mark.distributed
def test_one_process_is_told_and_both_stop(trees, tmp_path):
    args = [*flags("DRAEM", "mvtec", {"mvtec": trees["even"]}, tmp_path), "--trainer.devices", "2"]
    stopped = script("train.py", [*args, *stopped_at(1, *by("SIGUSR1"), "--trainer.callbacks.rank", "1")], timeout=120)
    assert stopped.returncode == 75, stopped.stderr
    assert stopped.stderr.count("SIGUSR1: stopped after batch 1 of epoch 1") == 1
    resumed = script("train.py", [*args, "--resume"])
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize("method", ["PatchCore", "DRAEM"])
def test_stopped_in_the_test(method, trees, tmp_path):
    args = flags(method, "mvtec", trees, tmp_path)
    stop = ["--trainer.callbacks+", "kill_at.KillAt", "--trainer.callbacks.test_batch", "0", *by("SIGTERM")]
    stopped = script("train.py", [*args, *stop])
    assert stopped.returncode == 75, stopped.stderr
    assert "SIGTERM: stopped in the test: --resume tests again" in stopped.stderr
    resumed = script("train.py", [*args, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    folder = tmp_path / f"{method.lower()}-mvtec-bottle"
    assert [p.name for p in folder.iterdir()] == ["version_0"]
    assert (folder / "version_0/metrics.json").is_file()


def test_a_fit_only_method_that_is_stopped_begins_anew(trees, tmp_path):
    args = flags("PatchCore", "mvtec", trees, tmp_path)
    stop = ["--trainer.callbacks+", "kill_at.KillAt", "--trainer.callbacks.first", "true", *by("SIGTERM")]
    stopped = script("train.py", [*args, *stop])
    assert stopped.returncode == 75, stopped.stderr
    assert "--resume reads them anew" in stopped.stderr
    resumed = script("train.py", [*args, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    whole = script("train.py", [*args, "--name", "whole"])
    assert whole.returncode == 0, whole.stderr
    assert_same_weights(tmp_path / "patchcore-mvtec-bottle/version_0", tmp_path / "whole/version_0")


def test_a_signal_to_the_whole_job_leaves_the_workers_alone(trees, tmp_path):
    args = [*flags("DRAEM", "mvtec", trees, tmp_path), "--data.num_workers", "2"]
    stopped = script("train.py", [*args, *stopped_at(4, *by("SIGTERM"), "--trainer.callbacks.job", "true")])
    assert stopped.returncode == 75, stopped.stderr
    assert "SIGTERM: stopped after batch 1 of epoch 2: --resume goes on from there" in stopped.stderr
