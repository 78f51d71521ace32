"""Training, evaluation and data by tiles, through the commands and the data module."""

import csv
import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from runs import CONFIGS, QUIET, assert_same_weights, config_of, script
from small import ALL, LEARNED, small_flags

from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.train import train
from lightning_ad.data import dataset
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.reading import read_image
from lightning_ad.data.sample import collate
from lightning_ad.data.sampler import MIXED, KeySampler
from lightning_ad.methods import PatchCore
from lightning_ad.reporting.maps import read_map

SIZE, TILES = (80, 160), 8  # 2 rows of 4; a height that only the tiles have in multiples of 32
HELD_OUT = ["--data.validation", "holdout", "--data.validation_anomalies", "true"]
HELD_OUT += ["--select", "validation_loss", "--trainer.max_epochs", "1"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six good images, of which one tests, and two with a square that is bright; all of `SIZE`."""
    root, rng = tmp_path_factory.mktemp("large"), np.random.default_rng(4)
    for name in ("good", "bad/dent", "masks/dent"):
        (root / name).mkdir(parents=True)
    for number in range(8):
        image, mask = rng.integers(60, 120, (*SIZE, 3), dtype=np.uint8), np.zeros(SIZE, np.uint8)
        if number >= 6:
            mask[20:40, 70:100] = 255
            image[mask > 0] = 250
            Image.fromarray(mask).save(root / f"masks/dent/{number}.png")
        Image.fromarray(image).save(root / f"{'bad/dent' if number >= 6 else 'good'}/{number}.png")
    return root


def flags(method, tree, output):
    args = ["--config", str(config_of(method)), "--config", str(CONFIGS / "data/folder.yaml")]
    args += ["--data.root", str(tree), "--data.batch_size", "4", "--data.image_size"]
    args += [str(list(SIZE)), "--data.tile", "64", "--data.tile_overlap", "32"]
    args += ["--data.num_workers", "0", *small_flags(method), "--output", str(output), *QUIET]
    return [*args, *HELD_OUT] if method in LEARNED else args


def data_module(tree, **options):
    small = {
        "image_size": [*SIZE],
        "tile": 64,
        "tile_overlap": 32,
        "batch_size": 4,
        "num_workers": 0,
    }
    data = AnomalyDataModule(layout="folder", root=str(tree), **{**small, **options})
    data.setup()
    return data


def rows_of(run):
    return list(csv.DictReader((run.path / "predictions.csv").open()))


@pytest.mark.parametrize("method", ALL)
def test_a_run_by_tiles_and_its_evaluation(method, tree, tmp_path):
    run = train(flags(method, tree, tmp_path))
    rows = rows_of(run)
    assert len(rows) == 3
    assert all(read_map(run.path / row["map"]).shape == SIZE for row in rows)
    again = evaluate([str(run.path), *QUIET])
    scores, repeated = ([float(row["score"]) for row in found] for found in (rows, rows_of(again)))
    assert repeated == pytest.approx(scores, rel=1e-6)
    for row, other in zip(rows, rows_of(again), strict=True):
        torch.testing.assert_close(
            read_map(run.path / row["map"]), read_map(again.path / other["map"])
        )
    if method == "PatchCore":  # so large a defect is found, where it is
        anomalous = [row for row in rows if row["label"] == "1"]
        assert min(float(row["score"]) for row in anomalous) > max(
            float(r["score"]) for r in rows if r not in anomalous
        )
        row, column = divmod(int(read_map(run.path / anomalous[0]["map"]).argmax()), SIZE[1])
        assert 10 <= row < 50
        assert 60 <= column < 110


def fitted(tree, folder, **options):
    torch.manual_seed(0)
    module = PatchCore(
        backbone="squeezenet1_1",
        weights=None,
        layer_dimension=None,
        dimension=None,
        coreset_ratio=0.05,
    )
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.fit(module, datamodule=data_module(tree, **options))
    return module


def test_the_summary_does_not_depend_on_batches_order_or_workers(tree, tmp_path):
    first = fitted(tree, tmp_path).state_dict()
    for options in ({"batch_size": 5, "num_workers": 2}, {"seed": 9, "batch_size": 1}):
        other = fitted(tree, tmp_path, **options).state_dict()
        assert first.keys() == other.keys()
        assert all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.distributed
def test_the_summary_of_two_processes_is_that_of_one(tree, tmp_path):
    args = flags("PatchCore", tree, tmp_path)
    train([*args, "--name", "one"])
    two = script("train.py", [*args, "--name", "two", "--trainer.devices", "2"])
    assert two.returncode == 0, two.stderr
    assert_same_weights(tmp_path / "one/version_0", tmp_path / "two/version_0")


def test_held_out_images_count_once_with_the_score_of_their_worst_tile(tree, tmp_path):
    module = fitted(tree, tmp_path, validation="holdout", validation_share=0.4)
    data = data_module(tree, validation="holdout", validation_share=0.4, tile=None)
    whole = collate([data.val_dataloader().dataset[i] for i in range(2)]).image
    with torch.no_grad():
        scores = module.eval().score(whole).score
    assert len(module.calibration) == 2
    torch.testing.assert_close(module.calibration.good, scores.sort().values, rtol=1e-5, atol=0)


def test_rows_are_tiles_and_each_image_is_read_once(tree, monkeypatch):
    read = []
    monkeypatch.setattr(
        dataset, "read_image", lambda path, bits: (read.append(path), read_image(path, bits))[1]
    )
    data = data_module(tree)
    batches = collate(list(data.train_dataloader()))
    rows = list(zip(batches.index.tolist(), batches.image, batches.path, strict=True))
    assert sorted(row for row, *_ in rows) == list(range(5 * TILES))
    assert sorted(read) == sorted(s.path for s in data.samples["train"])
    names, wholes = data.training_set().names, data_module(tree, tile=None).training_set()
    for row, image, path in rows:
        top, left = ((0, 0), (0, 32), (0, 64), (0, 96), (16, 0), (16, 32), (16, 64), (16, 96))[
            row % TILES
        ]
        assert names[row] == f"{path}@{top},{left}"
        assert torch.equal(
            image, wholes[row // TILES].image[0, :, top : top + 64, left : left + 64]
        )


def test_without_tiles_the_order_is_a_permutation_by_seed_and_epoch():
    sampler = KeySampler(range(11), shuffle=True, seed=3)
    sampler.set_epoch(2)
    expected = torch.randperm(
        11, generator=torch.Generator().manual_seed(3 * 1_000_003 + 2)
    ).tolist()
    assert [key.index for key in sampler] == expected


def test_a_few_images_take_turns():
    order = [key.index for key in KeySampler(range(10 * 6), shuffle=True, seed=0, tiles=6)]
    assert sorted(order) == list(range(60))
    images = [row // 6 for row in order]
    assert all(len({*images[start : start + MIXED]}) == MIXED for start in range(0, 48, MIXED))
    assert all(len({*images[start : start + 6 * MIXED]}) == MIXED for start in (0, 24))
    assert [row % 6 for row in order[::MIXED][:6]] != list(range(6))


def test_a_suspicious_image_is_trimmed_with_all_its_tiles(tree, tmp_path):
    folder = train([*flags("PaDiM", tree, tmp_path), "--trim", "0.2"])  # 1 of 5
    rows = list(csv.DictReader(folder.suspects.open()))
    assert len(rows) == len({row["path"] for row in rows}) == 5
    assert [row["trimmed"] for row in rows] == ["true", *["false"] * 4]
    assert all("@" not in row["path"] for row in rows)
    counts = json.loads(folder.metrics.read_text())["counts"]
    assert counts["train"] == 4
    state = torch.load(folder.checkpoint, weights_only=True)
    assert int(state["state_dict"]["images"]) == 4 * TILES
    assert not any(rows[0]["path"] in path for path in state["training_paths"])
