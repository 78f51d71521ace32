"""The demo is solved by its method."""

import json

import pytest

from lightning_ad.commands.train import train

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
    return train(flags).path


def test_the_method_solves_it(run):
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert metrics["image_AUROC"] >= 0.95
    assert metrics["pixel_AUPRO_0.30"] >= 0.80
