"""Real images and real weights: a small part of MTD through the real command."""

import json

import pytest
import torch
from paths import ROOT

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.train import train
from lightning_ad.data.geometry import resize
from lightning_ad.data.layouts import find_samples
from lightning_ad.data.reading import read_image
from lightning_ad.evaluation import conformal_threshold
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.patches import patch_features
from lightning_ad.reporting.tables import read_predictions
from lightning_ad.statistics.coreset import k_center_greedy

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def small_mtd(tmp_path_factory, request):
    """Links to every twelfth image of MTD, and the training list of that part."""
    shared = request.getfixturevalue("shared")
    base = tmp_path_factory.mktemp("mtd")
    samples = find_samples(
        "mtd",
        shared / "data/mtd",
        None,
        {"train_list": str(shared / "data/mtd_train_filenames.txt")},
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
    flags = [
        "--config",
        str(ROOT / "configs/patchcore.yaml"),
        "--config",
        str(ROOT / "configs/data/mtd.yaml"),
    ]
    flags += [
        "--data.root",
        str(small_mtd / "tree"),
        "--data.layout_options.train_list",
        str(small_mtd / "train.txt"),
    ]
    flags += [
        "--model.backbone",
        backbone,
        "--model.weights",
        str(shared / f"weights/{backbone}_imagenet.pth"),
    ]
    quiet = [
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
        "--data.num_workers",
        "0",
    ]
    folder = train(
        [*flags, "--model.coreset_ratio", "0.02", "--output", str(tmp_path), *quiet]
    ).path
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["image_AUROC"] > 0.7  # random weights stay near 0.5
    assert metrics["pixel_AUPRO_0.30"] > 0.4
    again = json.loads((evaluate([str(folder), *quiet]).path / "metrics.json").read_text())[
        "metrics"
    ]
    assert again == pytest.approx(metrics, abs=1e-6)


@pytest.fixture(scope="module")
def scores_of_good_tiles(shared, tmp_path_factory):
    """Of 476 good tiles, by a method that has learned from the other 476."""
    base = tmp_path_factory.mktemp("halves")
    good = sorted(p.name for p in (shared / "data/mtd/MT_Free/Imgs").glob("*.jpg"))
    (base / "train.txt").write_text("\n".join(good[::2]))
    flags = [
        "--config",
        str(ROOT / "configs/patchcore.yaml"),
        "--config",
        str(ROOT / "configs/data/mtd.yaml"),
    ]
    flags += [
        "--data.root",
        str(shared / "data/mtd"),
        "--data.layout_options.train_list",
        str(base / "train.txt"),
    ]
    flags += [
        "--data.image_size",
        "64",
        "--model.coreset_ratio",
        "0.02",
        "--model.backbone",
        "squeezenet1_1",
    ]
    flags += [
        "--model.weights",
        str(shared / "weights/squeezenet1_1_imagenet.pth"),
        "--output",
        str(base),
    ]
    folder = train(
        [*flags, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    )
    rows = read_predictions(folder.predictions)
    return torch.tensor([row.score for row in rows if row.label == 0])


@pytest.mark.xdist_group("good tiles")  # one worker: they are scored once
@pytest.mark.parametrize("reject", [0.01, 0.05, 0.1])
def test_no_more_good_parts_are_rejected_than_asked_for(scores_of_good_tiles, reject):
    draw, rejected = torch.Generator().manual_seed(0), []
    scores = scores_of_good_tiles
    for _ in range(200):
        order = torch.randperm(len(scores), generator=draw)
        calibration, tested = scores[order].tensor_split(2)
        rejected.append((tested > conformal_threshold(calibration, reject)).double().mean())
    assert len(scores) == 476
    assert reject / 2 < torch.stack(rejected).mean() <= reject


def test_the_coreset_of_magnetic_tiles_is_that_of_a_naive_greedy(small_mtd, shared):
    backbone = Backbone(
        "mobilenet_v2",
        str(shared / "weights/mobilenet_v2_imagenet.pth"),
        ["features.6", "features.13"],
    )
    files = sorted((small_mtd / "tree/MT_Free/Imgs").glob("*.jpg"))
    images = torch.stack([resize(read_image(str(file)), 224, 224) for file in files])
    vectors = patch_features(backbone(images), 3, None, None).flatten(0, 1)
    count = 600
    found = k_center_greedy(vectors, count, torch.Generator().manual_seed(0), starting_points=None)
    nearest, expected = (vectors - vectors[found.rows[0]]).square().sum(1), [int(found.rows[0])]
    while len(expected) < count:
        expected.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (vectors - vectors[expected[-1]]).square().sum(1))
    assert len(vectors) > 50_000
    assert found.rows.tolist() == expected
