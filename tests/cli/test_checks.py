"""What a run asks for is checked against its method first, and before anything is written."""

import shutil

import pytest
from runs import flags

from lightning_ad.commands.train import train
from lightning_ad.errors import DataError, UsageError

FIT_ONLY = {
    "trim": "trim: 2.0\n",  # no share either
    "suspects": "suspects: true\n",
    "extend": "extend: runs/no-such-run\n",
}


@pytest.mark.parametrize("flag", FIT_ONLY)
def test_a_learned_method_refuses_the_flags_of_a_fit_whatever_their_value(flag, trees, tmp_path):
    config = tmp_path / "more.yaml"
    config.write_text(FIT_ONLY[flag])
    args = [*flags("DRAEM", "mvtec", trees, tmp_path / "runs"), "--config", str(config)]
    with pytest.raises(UsageError, match=f"--{flag}: DRAEM is trained, not fitted at once"):
        train(args)
    assert not (tmp_path / "runs").exists()


def test_a_share_and_an_extension_are_checked_for_a_method_that_takes_them(trees, tmp_path):
    args = flags("PaDiM", "mvtec", trees, tmp_path / "runs")
    with pytest.raises(UsageError, match="--trim is a share of the training images"):
        train([*args, "--trim", "2"])
    config = tmp_path / "more.yaml"
    config.write_text("extend: runs/no-such-run\n")
    with pytest.raises(UsageError, match="leave out --extend, or --trim"):
        train([*args, "--config", str(config), "--trim", "0.2"])
    assert not (tmp_path / "runs").exists()


def test_a_run_that_could_not_be_tested_is_refused_before_its_fit(trees, tmp_path):
    root = shutil.copytree(trees["mvtec"], tmp_path / "data")
    args = flags("PaDiM", "mvtec", {"mvtec": root}, tmp_path / "runs")
    for limit in ("0", "0.01"):
        with pytest.raises(UsageError, match=f"limit_test_batches {limit}.* leaves nothing of the"):
            train([*args, "--trainer.limit_test_batches", limit])
    for kind in (root / "bottle/test").iterdir():
        shutil.rmtree(kind)
        kind.mkdir()
    with pytest.raises(DataError, match=r"no test image in .*: a run ends with a test"):
        train(args)
    assert not (tmp_path / "runs").exists()
