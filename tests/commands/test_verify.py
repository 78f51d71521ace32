"""`lightning-ad verify`: whether a run's numbers come out of its checkpoint again."""

import json
import shutil

import pytest
import torch
import yaml
from runs import QUIET, flags, metrics_of, script, typed

from lightning_ad.cli.run import RunCLI
from lightning_ad.commands.train import train
from lightning_ad.errors import UsageError
from lightning_ad.inspector import FinishedRun
from lightning_ad.system.checkpoints import CONFIG_KEY, write_whole


@pytest.fixture(scope="module")
def run(trees, tmp_path_factory):
    return train(flags("PaDiM", "mvtec", trees, tmp_path_factory.mktemp("runs"))).path


def verified(run, capsys, *more):
    code = typed("verify", run, *QUIET, *more)
    return code, capsys.readouterr().out


def test_a_run_is_confirmed_and_left_as_it_is(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, said = verified(run, capsys)
    assert code == 0
    assert f"confirmed: all {len(metrics_of(run))} metrics of {run}, to the last digit" in said
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.distributed
def test_the_first_of_two_processes_compares(run):
    done = script("evaluate.py", ["--verify", run, "--trainer.devices", "2", *QUIET])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"confirmed: all {len(metrics_of(run))} metrics of {run}") == 1
    assert "error" not in done.stderr


def test_another_number_another_checkpoint_or_other_images_are_not_confirmed(
    run, trees, tmp_path, capsys
):
    copy = shutil.copytree(run, tmp_path / "version_0")
    content = json.loads((copy / "metrics.json").read_text())
    content["metrics"]["pixel_AUROC"] += 1e-9
    (copy / "metrics.json").write_text(json.dumps(content))
    code, said = verified(copy, capsys)
    assert code == 0
    assert "within 1e-06" in said
    content["metrics"]["pixel_AUROC"] += 1e-3
    (copy / "metrics.json").write_text(json.dumps(content))
    code, said = verified(copy, capsys)
    assert code == 1
    assert f"NOT CONFIRMED: 1 of {len(metrics_of(run))} metrics" in said
    assert f"pixel_AUROC       recorded {content['metrics']['pixel_AUROC']!r}, now" in said

    other = train(
        [*flags("PaDiM", "mvtec", trees, tmp_path / "other"), "--seed_everything", "7"]
    ).path
    shutil.copy(other / "checkpoints/last.ckpt", copy / "checkpoints/last.ckpt")
    code, said = verified(copy, capsys)
    assert code == 1
    assert "the checkpoint is not the one that was tested" in said

    code, said = verified(run, capsys, "--data.root", str(trees["all"]))
    assert code == 1
    assert "differs: test_set" in said


def made_before_resize_could_be_set(run, copy):
    """A copy of a run without what this setting has brought."""
    shutil.copytree(run, copy)
    file = copy / "checkpoints/last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    config = yaml.safe_load(checkpoint[CONFIG_KEY])
    del config["data"]["resize"]
    checkpoint[CONFIG_KEY] = yaml.safe_dump(config)
    write_whole(checkpoint, file)
    (copy / "config.yaml").write_text(checkpoint[CONFIG_KEY])
    content = json.loads((copy / "metrics.json").read_text())
    del content["protocol"]["interpolation"]
    (copy / "metrics.json").write_text(json.dumps(content))
    return copy


def test_a_run_from_before_keeps_its_resize_and_rounding(run, trees, tmp_path, capsys):
    earlier = made_before_resize_could_be_set(run, tmp_path / "runs" / "earlier" / "version_0")
    assert FinishedRun.read(earlier).config["data"]["resize"] is None
    assert FinishedRun.read(run).config["data"]["resize"] == "lanczos"
    new = shutil.copytree(trees["mvtec"] / "bottle/train/good", tmp_path / "new")
    more = ["--extend", str(earlier), "--data.train_folder", str(new)]
    extended = RunCLI([*flags("PaDiM", "mvtec", trees, tmp_path / "extended"), *more])
    assert extended.datamodule.geometry.interpolation is None
    (earlier / "metrics.json").rename(tmp_path / "metrics.json")
    named = [*flags("PaDiM", "mvtec", trees, tmp_path / "runs"), "--name", "earlier", "--resume"]
    with pytest.raises(UsageError, match=r"begun with data\.resize null, now it is lanczos"):
        RunCLI(named)


def test_what_cannot_be_verified(tmp_path):
    with pytest.raises(UsageError, match="arguments are required: RUN"):
        typed("verify")
    with pytest.raises(UsageError, match="there is no run"):
        typed("verify", tmp_path)
