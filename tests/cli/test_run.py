"""A run owns what it knows of itself; who shows it asks the run."""

import torch
import yaml
from lightning.pytorch.callbacks import Timer
from runs import flags

from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.cli.run import RunCLI
from lightning_ad.commands.train import train
from lightning_ad.reporting.dashboards.callback import DashboardRecorder
from lightning_ad.system.checkpoints import write_whole


def test_dashboards_show_the_training_set_of_the_checkpoint_that_is_tested(trees, tmp_path):
    args = flags("PaDiM", "mvtec", trees, tmp_path)
    state = torch.load(train(args).checkpoint, weights_only=True)
    write_whole({**state, ConfigInCheckpoint.TRAINING_SET: "another"}, tmp_path / "other.ckpt")
    run = RunCLI(args)
    (recorder,) = (c for c in run.trainer.callbacks if isinstance(c, DashboardRecorder))
    before = run.training_set
    assert recorder.facts()["training_set"] == before != "another"
    run.load_learned(tmp_path / "other.ckpt")
    assert run.training_set == "another"
    assert recorder.facts()["training_set"] == "another"
    assert bool(run.model.fitted)


def test_a_part_with_an_enumerated_setting_can_be_written_into_the_configuration(trees, tmp_path):
    """Of Lightning's Timer; the parser said "Expected a <class 'NoneType'>"."""
    timer = ["--trainer.callbacks+", "Timer", "--trainer.callbacks.duration", "00:00:10:00"]
    run = RunCLI([*flags("PaDiM", "mvtec", trees, tmp_path), *timer])
    (written,) = yaml.safe_load(run.config_text)["trainer"]["callbacks"]
    assert written["init_args"]["interval"] == "step"
    (made,) = [callback for callback in run.trainer.callbacks if isinstance(callback, Timer)]
    assert made.time_remaining() == 600
