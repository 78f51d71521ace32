"""Small runs as a user types them, and what they leave."""

import csv
import json
import subprocess

import torch
import yaml
from paths import CONFIGS, ROOT
from scripts import PATIENCE, script_server
from small import small_flags
from trees import category_of

from lightning_ad.cli import settings
from lightning_ad.commands.main import parse

FAULTS = ["--trust", "faults"]  # a run may be given the callbacks of helpers/faults.py
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


def method_of(config):
    return (
        yaml.safe_load(config.read_text()).get("model", {}).get("class_path", "").rpartition(".")[2]
    )


METHODS = sorted(p for p in CONFIGS.glob("*.yaml") if method_of(p) and p.stem != "demo")


def config_of(method):
    """The method's own configuration, by the name of its class."""
    return settings.config_of(f"lightning_ad.methods.{method}")


DATA_SETS = sorted(
    p for p in (CONFIGS / "data").glob("*.yaml") if p.stem != "demo"
)  # which has a test of its own


def flags(method, layout, trees, output, config=None):
    """A small run of a method on a small tree of a layout."""
    data = ["--config", str(CONFIGS / f"data/{layout}.yaml"), "--data.root", str(trees[layout])]
    category = category_of(layout)
    if category is not None:
        data += ["--data.category", category]
    data += ["--data.image_size", "64", "--data.center_crop", "null", "--data.batch_size", "3"]
    data += ["--data.num_workers", "0"]
    method_flags = ["--config", str(config or config_of(method)), *data, *small_flags(method)]
    return [*method_flags, "--output", str(output), *QUIET, *FAULTS]


def typed(*words):
    """Runs what a user types after `lightning-ad` in this process; its errors are raised."""
    command, arguments = parse([str(word) for word in words])
    return command.run(arguments)


def script(name, args, timeout=PATIENCE, **env):
    """Runs train.py or evaluate.py in a process of its own; if it is late, it is killed."""
    argv = [str(ROOT / name), *map(str, args)]
    ended, code, output, error = script_server().run(argv, timeout, **env)
    assert ended, f"{name} took more than {timeout} s: {error[-2000:]}"
    return subprocess.CompletedProcess(argv, code, output, error)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def weights_of(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def logged(folder, name, version="version_0"):
    rows = csv.DictReader((folder / f"logs/csv/{version}/metrics.csv").open())
    return [float(row[name]) for row in rows if row[name]]


def assert_same_weights(first, second):
    first, second = weights_of(first), weights_of(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
