"""`lightning-ad evaluate`: what it takes."""

from pathlib import Path

import pytest
import torch
import yaml

from lightning_ad.cli.evaluate import own_config
from lightning_ad.commands.evaluate import evaluate
from lightning_ad.errors import UsageError
from lightning_ad.system.checkpoints import CONFIG_KEY
from lightning_ad.system.names import stays_below


def test_a_run_must_be_named():
    with pytest.raises(UsageError, match="name a run to evaluate"):
        evaluate([])


DATA = {"layout": "demo", "image_size": 64, "center_crop": None, "tile": None}
HOSTILE = {
    "model": {"class_path": "lightning_ad.methods.PaDiM"},
    "name": "../../escaped",
    "output": "/elsewhere",
    "feature_cache": "/elsewhere",
    "data": {**DATA, "root": "/elsewhere"},
    "trainer": {"precision": "32-true", "max_epochs": 1, "default_root_dir": "/elsewhere"},
}


def test_a_checkpoint_does_not_say_where_something_is_written(tmp_path):
    file = tmp_path / "strange.ckpt"
    torch.save({CONFIG_KEY: yaml.safe_dump(HOSTILE)}, file)
    with own_config(file) as (_, written):
        config = yaml.safe_load(Path(written).read_text())
    assert stays_below(config["name"])
    assert "elsewhere" not in str(config)


def test_a_checkpoint_says_where_the_demo_was_drawn_and_what_the_run_is_called(tmp_path):
    file = tmp_path / "own.ckpt"
    root = tmp_path / "drawn"
    root.mkdir()
    (root / "drawn_by.txt").touch()
    own = HOSTILE | {"name": "mine/x", "data": {**DATA, "root": str(root)}}
    torch.save({CONFIG_KEY: yaml.safe_dump(own)}, file)
    with own_config(file) as (_, written):
        config = yaml.safe_load(Path(written).read_text())
    assert config["name"] == "mine/x"
    assert config["data"]["root"] == str(root)
