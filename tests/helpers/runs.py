"""Small runs as a user types them, and what they leave."""

import csv
import json
import subprocess
from functools import cache
from pathlib import Path

import torch
import yaml
from forked import Forked
from trees import category_of

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
SMALL = {
    "PatchCore": ["--model.backbone", "squeezenet1_1", "--model.weights", "null", "--model.coreset_ratio", "0.05"],
    "PaDiM": ["--model.backbone", "squeezenet1_1", "--model.weights", "null", "--model.dimension", "20"],
    "SPADE": ["--model.backbone", "resnet18", "--model.weights", "null", "--model.k_pixel", "3"],
    "MahalanobisAD": ["--model.backbone", "resnet18", "--model.weights", "null"],
    "CFA": [
        *("--model.backbone", "squeezenet1_1", "--model.weights", "null", "--model.features", "post_relu"),
        *("--trainer.max_epochs", "2"),
    ],
    "DRAEM": ["--model.reconstructive_width", "8", "--model.discriminative_width", "8", "--trainer.max_epochs", "2"],
    "PFM": [
        *("--model.source", "squeezenet1_1", "--model.target", "mobilenet_v2", "--model.latents", "[8,8,8]"),
        *("--model.source_weights", "null", "--model.target_weights", "null", "--trainer.max_epochs", "2"),
    ],
}  # fmt: skip


def method_of(config):
    return (
        yaml.safe_load(config.read_text()).get("model", {}).get("class_path", "").rpartition(".")[2]
    )


METHODS = sorted(p for p in CONFIGS.glob("*.yaml") if method_of(p) and p.stem != "demo")
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
    method_flags = [
        "--config",
        str(config or CONFIGS / f"{method.lower()}.yaml"),
        *data,
        *SMALL[method],
    ]
    return [*method_flags, "--output", str(output), "--data.num_workers", "0", *QUIET]


def script(name, args, timeout=300, **env):
    """Runs train.py or evaluate.py in a process of its own, killed with all that it started at the end of its time."""
    argv = [str(ROOT / name), *map(str, args)]
    ended, code, output, error = forked().run(argv, timeout, **env)
    assert ended, f"{name} took more than {timeout} s: {error[-2000:]}"
    return subprocess.CompletedProcess(argv, code, output, error)


forked = cache(Forked)  # one for each worker of pytest


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
