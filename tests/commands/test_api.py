"""The Python face: `lightning_ad.train` and `evaluate` make the runs of the commands."""

import json
import subprocess
import sys

import pytest
from runs import QUIET, ROOT, assert_same_weights, flags, metrics_of
from torch import optim

import lightning_ad as ad
from lightning_ad.commands.train import train
from lightning_ad.reporting.tables import read_predictions

PATCHCORE = {"backbone": "squeezenet1_1", "weights": None, "coreset_ratio": 0.05}
DATA = {"category": "bottle", "image_size": 64, "batch_size": 3, "num_workers": 0}


def test_a_run_in_python_is_the_run_of_the_command(trees, tmp_path):
    command = train(flags("PatchCore", "mvtec", trees, tmp_path / "command"))
    module = ad.PatchCore(**PATCHCORE)
    data = ad.AnomalyDataModule("mvtec", str(trees["mvtec"]), **DATA)
    run = ad.train(module, data, output=str(tmp_path / "python"), flags=QUIET)
    assert run.files.path == tmp_path / "python/patchcore-mvtec-bottle/version_0"
    assert run.metrics == metrics_of(command.path)
    assert_same_weights(run.files.path, command.path)
    assert run.files.predictions.read_bytes() == command.predictions.read_bytes()
    assert run.report.is_file()
    assert [row.path for row in run.predictions] == [
        row.path for row in read_predictions(command.predictions)
    ]
    assert bool(module.fitted)
    image = run.predictions[0]
    assert run.inspector()(image.path).score == pytest.approx(image.score, rel=1e-4)
    again = ad.evaluate(run, flags=QUIET)
    assert again.metrics == run.metrics


def test_a_learned_method_takes_released_settings_but_for_those_that_are_given(trees, tmp_path):
    module = ad.DRAEM(reconstructive_width=8, discriminative_width=8)
    data = ad.AnomalyDataModule("mvtec", str(trees["mvtec"]), seed=3, **DATA)
    run = ad.train(
        module, data, trainer={"max_epochs": 1}, name="named", output=str(tmp_path), flags=QUIET
    )
    config = (run.files.path / "config.yaml").read_text()
    assert "seed_everything: 3" in config
    assert "max_epochs: 1" in config
    assert set(run.metrics) >= {"image_AUROC", "pixel_AUPRO_0.30"}
    with pytest.raises(ad.UsageError, match="give it as a flag"):
        ad.train(ad.DRAEM(optimizer=optim.AdamW), data)
    with pytest.raises(ad.UsageError, match="did you mean"):
        ad.train(module, data, outputs=str(tmp_path))


def test_the_names_are_there_with_their_docstrings_and_nothing_heavy_is_imported():
    code = (
        "import sys, lightning_ad as ad;"
        "assert not {'torch', 'lightning', 'numpy'} & {*sys.modules};"
        "print([len(ad.__all__), *(bool(getattr(ad, name).__doc__) for name in ad.__all__)]);"
        "assert {*ad.__all__} <= {*dir(ad)}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    count, *documented = json.loads(done.stdout.replace("True", "true").replace("False", "false"))
    assert 20 <= count <= 30
    assert all(documented)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ad.nothing
