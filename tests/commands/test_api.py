"""The Python face: `lightning_ad.train` and `evaluate` make the runs of the commands."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs import QUIET, ROOT, assert_same_weights, flags, metrics_of, script
from small_fits import trainer
from torch import optim
from torchvision.models import squeezenet1_1

import lightning_ad as ad
from lightning_ad.cli import settings
from lightning_ad.commands import api
from lightning_ad.commands.train import train
from lightning_ad.reporting.tables import read_predictions
from lightning_ad.system.checkpoints import write_whole

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


def test_paths_need_not_be_text(trees, tmp_path):
    weights = tmp_path / "squeezenet.pth"
    write_whole(squeezenet1_1().state_dict(), weights)
    module = ad.PatchCore(**{**PATCHCORE, "weights": weights})
    data = ad.AnomalyDataModule("mvtec", trees["mvtec"], **DATA)
    run = ad.train(module, data, output=tmp_path / "runs", flags=QUIET)
    assert run.files.path.is_relative_to(tmp_path / "runs")
    flags = [*QUIET, "--output", tmp_path / "again"]
    again = ad.evaluate(run.files.checkpoint, root=trees["mvtec"], flags=flags)
    assert again.files.path.is_relative_to(tmp_path / "again")
    assert again.metrics == run.metrics
    assert ad.load(run.files.path).module.fitted
    own = trainer(tmp_path)
    own.fit(module, datamodule=data)
    own.save_checkpoint(tmp_path / "own.ckpt")
    again = ad.PatchCore.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True)
    assert again.hparams.weights == str(weights)


def test_what_train_takes_is_said():
    with pytest.raises(ad.UsageError, match="got AnomalyDataModule and the class PatchCore"):
        ad.train(ad.AnomalyDataModule("mtd", "data/mtd"), ad.PatchCore)


class Compared(ad.FitOnlyModule):
    """A fit-only method that has no configuration."""


class DRAEM(ad.LearnedModule):
    """A learned method that has no configuration, and the name of one that has."""


def test_released_settings_are_those_of_the_class_itself(tmp_path, monkeypatch):
    assert api.released_trainer(ad.PatchCore(**PATCHCORE)) == {"max_epochs": 1}
    assert api.released_trainer(Compared()) == {"max_epochs": 1}
    assert api.released_trainer(DRAEM()) == {}
    assert api.released_trainer(ad.DRAEM()) == {"max_epochs": 700}
    model = "model: {class_path: lightning_ad.methods.DRAEM, init_args: {norm: group}}\n"
    for epochs, name in enumerate(("demo", "draem", "draem-other")):
        (tmp_path / f"{name}.yaml").write_text(f"{model}trainer: {{max_epochs: {epochs}}}\n")
    monkeypatch.setattr(settings, "configs", lambda: tmp_path)
    assert api.released_trainer(ad.DRAEM()) == {"max_epochs": 1}


def test_what_cannot_end_in_a_run_is_refused_before_the_fit(trees, tmp_path):
    data = ad.AnomalyDataModule("mvtec", trees["mvtec"], **DATA)
    with pytest.raises(ad.UsageError, match=r"give trainer=\{\"max_epochs\": \.\.\.\}"):
        ad.train(DRAEM(), data, output=tmp_path)
    for how in (
        {"trainer": {"enable_checkpointing": False}},
        {"flags": ["--trainer.enable_checkpointing=False"]},
    ):
        with pytest.raises(ad.UsageError, match=r"leave out trainer\.enable_checkpointing"):
            ad.train(ad.PatchCore(**PATCHCORE), data, output=tmp_path, **how)
    assert not any(tmp_path.iterdir())


TWO_DEVICES = """
import json
import sys

import lightning_ad as ad

root, output, flag, devices = sys.argv[1:]
data = ad.AnomalyDataModule("mvtec", root, category="bottle", image_size=64, num_workers=0)
module = ad.PatchCore("squeezenet1_1", weights=None, coreset_ratio=0.05)
trainer = {"devices": int(devices), "accelerator": "cpu", "enable_progress_bar": False}
run = ad.train(module, data, trainer=trainer, output=output)
quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
again = ad.evaluate(run, flags=[flag, devices, *quiet])
found = [str(run.files.path), run.metrics, bool(module.fitted), str(again.files.path)]
print("run", json.dumps([*found, again.metrics]))
"""


@pytest.mark.distributed
def test_both_processes_of_two_devices_get_the_run(trees, tmp_path):
    file = tmp_path / "two_devices.py"
    file.write_text(TWO_DEVICES)
    # The script server makes the second process ready if it sees the flag.
    words = [trees["mvtec"], tmp_path / "runs", "--trainer.devices", "2"]
    done = script(file, words)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("run ")]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    path, metrics, fitted, again, same = json.loads(lines[0].removeprefix("run "))
    assert path == str(tmp_path / "runs/patchcore-mvtec-bottle/version_0")
    assert again == f"{path}/evaluations/version_0"
    assert fitted
    assert metrics == pytest.approx(same, abs=1e-6)


def test_the_names_are_there_with_their_docstrings_and_nothing_heavy_is_imported():
    code = (
        "import sys, lightning_ad as ad;"
        "assert not {'torch', 'lightning', 'numpy'} & {*sys.modules};"
        "print([bool(getattr(ad, name).__doc__) for name in ad.__all__]);"
        "assert {*ad.__all__} <= {*dir(ad)}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.count("True") == len(ad.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ad.nothing


def test_a_type_checker_sees_the_names_that_are_there():
    homes = [name for names in ad._HOMES.values() for name in names]
    assert sorted(homes) == sorted(ad.__all__)
    (branch,) = [node for node in ast.parse(Path(ad.__file__).read_text()).body if is_branch(node)]
    seen = {}
    for statement in branch.body:
        seen[statement.module] = sorted(alias.name for alias in statement.names)
    assert seen == {module: sorted(names) for module, names in ad._HOMES.items()}


def is_branch(node):
    return isinstance(node, ast.If)
