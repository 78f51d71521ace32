"""Real images and real weights: a small part of MTD through the real command."""

import json
from pathlib import Path

import pytest

from lightning_ad.commands import evaluate, train
from lightning_ad.data.layouts import find_samples

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def small_mtd(tmp_path_factory, request):
    """Links to every twelfth image of MTD, and the training list of that part."""
    shared = request.getfixturevalue("shared")
    base = tmp_path_factory.mktemp("mtd")
    samples = find_samples(
        "mtd", shared / "data/mtd", None, {"train_list": str(shared / "data/mtd_train_filenames.txt")}
    )
    names = []
    for sample in samples[::12]:
        source = shared / "data/mtd" / sample.path.split("/mtd/")[1]
        for suffix in (".jpg", ".png"):
            target = base / "tree" / source.relative_to(shared / "data/mtd").with_suffix(suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.with_suffix(suffix).resolve())
        names += [source.name] if sample.split == "train" else []
    (base / "train.txt").write_text("\n".join(names))
    return base


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "squeezenet1_1"])
def test_patchcore_on_magnetic_tiles(backbone, small_mtd, shared, tmp_path):
    flags = ["--config", str(ROOT / "configs/patchcore.yaml"), "--config", str(ROOT / "configs/data/mtd.yaml")]
    flags += ["--data.root", str(small_mtd / "tree"), "--data.layout_options.train_list", str(small_mtd / "train.txt")]
    flags += ["--model.backbone", backbone, "--model.weights", str(shared / f"weights/{backbone}_imagenet.pth")]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0"]
    folder = train([*flags, "--model.coreset_ratio", "0.02", "--output", str(tmp_path), *quiet]).path
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["image_AUROC"] > 0.7  # random weights stay near 0.5
    assert metrics["pixel_AUPRO_0.30"] > 0.4
    again = json.loads((evaluate([str(folder), *quiet]).path / "metrics.json").read_text())["metrics"]
    assert again == pytest.approx(metrics, abs=1e-6)
