"""The demo is solved by its method, and not by the distance to the mean training image."""

import json

import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from sklearn.metrics import roc_auc_score

from lightning_ad.commands.train import train
from lightning_ad.data.datamodule import AnomalyDataModule

pytestmark = pytest.mark.xdist_group("demo")  # one worker: the run is made once


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("demo")
    flags = [
        "--data.root",
        str(base / "demo"),
        "--output",
        str(base / "runs"),
        "--trainer.enable_progress_bar",
        "false",
    ]
    return base / "demo", train(flags).path


def test_the_method_solves_it(run):
    metrics = json.loads((run[1] / "metrics.json").read_text())["metrics"]
    assert metrics["image_AUROC"] >= 0.95
    assert metrics["pixel_AUPRO_0.30"] >= 0.80


@pytest.mark.parametrize("sigma", [0.0, 4.0])
def test_the_distance_to_the_mean_training_image_does_not(run, sigma):
    data = AnomalyDataModule(root=str(run[0]), image_size=128, batch_size=20, num_workers=0)
    data.setup()
    mean = torch.cat([b.image for b in data.train_dataloader()]).mean(0)
    batches = list(data.test_dataloader())
    maps = torch.cat([(b.image - mean).norm(dim=1) for b in batches])
    for axis in (1, 2) if sigma else ():
        maps = torch.from_numpy(gaussian_filter1d(maps.numpy(), sigma, axis))
    labels = torch.cat([b.label for b in batches])
    assert roc_auc_score(labels, maps.flatten(1).amax(1)) < 0.75
