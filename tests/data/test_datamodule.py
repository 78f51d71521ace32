import shutil
from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.errors import DataError, UsageError


def module(trees, **options):
    defaults = {
        "layout": "mvtec",
        "root": str(trees["mvtec"]),
        "category": "bottle",
        "image_size": 32,
        "num_workers": 0,
    }
    data = AnomalyDataModule(**{**defaults, **options})
    data.setup()
    return data


def test_a_batch_is_as_the_contract_says(trees):
    data = module(trees, batch_size=4)
    batches = list(data.test_dataloader())
    assert [len(b) for b in batches] == [4, 3]
    first = batches[0]
    assert first.image.shape == (4, 3, 32, 32)
    assert first.image.dtype == torch.float32
    assert 0 <= first.image.min() < first.image.max() <= 1
    assert first.mask.shape == (4, 32, 32)
    assert first.mask.dtype == torch.bool
    assert first.label.dtype == first.index.dtype == torch.int64
    assert first.label.tolist() == [int(d != "good") for d in first.defect]
    assert first.mask.flatten(1).any(1).tolist() == [bool(label) for label in first.label]
    assert torch.cat([b.index for b in batches]).tolist() == list(range(7))


def test_training_order_does_not_depend_on_workers(trees):
    def paths(workers):
        loader = module(trees, batch_size=3, num_workers=workers).train_dataloader()
        loader.sampler.set_epoch(2)
        return [path for batch in loader for path in batch.path]

    assert paths(2) == paths(0)
    assert paths(2) != sorted(paths(2))


def trained_by(data, method, **progress):
    """Gives a data module a trainer that is at some place of its run."""
    batches = SimpleNamespace(processed=progress.get("processed", 0))
    data.trainer = SimpleNamespace(
        lightning_module=method,
        global_rank=0,
        world_size=progress.get("world_size", 1),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(
            restarting=progress.get("restarting", False),
            epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=2)),
            epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=batches)),
        ),
    )
    return data


def a_method(synthesis=None, batches_kept=0):
    return SimpleNamespace(
        synthesis=synthesis,
        validation_synthesis=Synthesis().held_out(),
        batches_kept=batches_kept,
    )


def recipes(loader):
    return [sorted(batch.recipe) for batch in loader]


def test_synthetic_anomalies_are_those_that_the_method_asks_for(trees):
    data = module(trees, validation="holdout", validation_share=0.3)
    assert not any(recipes(data.train_dataloader()))
    trained_by(data, a_method(Synthesis()))
    assert all(recipes(data.train_dataloader()))
    assert all(recipes(data.val_dataloader()))
    assert not any(recipes(data.test_dataloader()))
    (held_out,) = data.val_dataloader()
    assert held_out.recipe["laid"].all()
    trained_by(data, a_method())
    assert not any(recipes(data.train_dataloader()))
    assert not any(recipes(data.val_dataloader()))


def test_validation_anomalies_are_for_every_method(trees):
    data = module(trees, validation="holdout", validation_share=0.3, validation_anomalies=True)
    trained_by(data, a_method())
    assert not any(recipes(data.train_dataloader()))
    assert all(recipes(data.val_dataloader()))


def test_a_module_that_is_no_method_gets_plain_images(trees):
    data = trained_by(module(trees), LightningModule())
    assert data.method is None
    assert not any(recipes(data.train_dataloader()))


def test_its_arguments_make_the_same_again(trees):
    data = module(trees, batch_size=2, validation="holdout", center_crop=16)
    again = AnomalyDataModule(**data.arguments)
    assert again.arguments == data.arguments
    assert again.arguments.keys() == signature(AnomalyDataModule).parameters.keys()
    assert again.preprocessing == data.preprocessing
    assert again.batch_size == 2


def indices(loader):
    return torch.cat([batch.index for batch in loader]).tolist()


def test_batches_that_a_fit_has_kept_are_left_out_of_every_pass(trees):
    data = trained_by(module(trees, batch_size=2), a_method())
    whole = indices(data.train_dataloader())
    trained_by(data, a_method(batches_kept=2))
    loader = data.train_dataloader()
    assert len(loader) == 2
    assert indices(loader) == indices(loader) == whole[4:]


def test_a_resumed_epoch_goes_on_after_the_batches_that_it_has_read(trees):
    data = trained_by(module(trees, batch_size=2), a_method())
    whole = indices(data.train_dataloader())
    trained_by(data, a_method(), restarting=True, processed=4 + 3)  # in the second epoch
    loader = data.train_dataloader()
    assert indices(loader) == whole[6:]
    assert indices(loader) == whole


def test_fewer_images_than_processes(trees):
    data = trained_by(module(trees), a_method(), world_size=8)
    message = "7 training images are too few for 8 processes; lower trainer.devices"
    with pytest.raises(UsageError, match=message):
        data.train_dataloader()


@pytest.mark.parametrize(("asked", "workers"), [(None, 0), (0, 0), (3, 3)])
def test_as_many_workers_as_are_asked_for(asked, workers, trees):
    assert module(trees, num_workers=asked).test_dataloader().num_workers == workers


def test_an_empty_training_set_stops(tmp_path):
    (tmp_path / "good").mkdir()
    with pytest.raises(DataError, match="no training image"):
        AnomalyDataModule(layout="folder", root=str(tmp_path), layout_options={"bad": None}).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size: expected at least 1, got 0"),
        ({"num_workers": -1}, r"data\.num_workers: expected at least 0, got -1"),
        ({"max_megapixels": 0}, r"data\.max_megapixels: expected a positive number, got 0"),
        ({"validation_anomalies": True}, "needs held-out images: set data.validation"),
        ({"validation_share": 1.5}, r"data\.validation_share"),
        ({"fold": 5}, r"data\.fold"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(UsageError, match=message):
        AnomalyDataModule(**options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "resize (256, 256), crop None, tiles none, ignored nothing"),
        (
            {"center_crop": 224, "ignore": "a.png", "ignore_value": 128},
            "resize 256, crop (224, 224), tiles none, ignored files and 128",
        ),
        (
            {"tile": 128, "tile_overlap": 64},
            "resize (256, 256), crop None, tiles (128, 128) overlapping by 64, ignored nothing",
        ),
    ],
)
def test_preprocessing_in_words(options, expected):
    """Checkpoints hold these words: other words would make their calibration that of other data."""
    assert AnomalyDataModule(**options).preprocessing == expected


def test_images_of_a_folder_take_the_place_of_the_layouts(trees):
    folder = trees["folder"] / "good"
    data = module(trees, train_folder=str(folder), validation="holdout", validation_share=0.3)
    assert {sample.path for sample in data.samples["train"]} == set(map(str, folder.iterdir()))
    assert len(data.samples["validation"]) == 2
    assert all("mvtec" in sample.path for sample in data.samples["validation"])
    assert len(data.samples["test"]) == 7


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ({"layout": "mvtec", "root": "data/mvtec", "category": "bottle"}, "mvtec-bottle"),
        ({"layout": "mtd", "root": "data/mtd"}, "mtd"),
        ({"layout": "folder", "root": "plant/my_parts/"}, "my_parts"),
    ],
)
def test_a_run_is_named_after_its_data(settings, title):
    assert AnomalyDataModule(**settings, image_size=32, center_crop=None).title == title


def test_the_truth_of_test_images_is_for_the_test_alone(trees):
    data = module(trees, batch_size=7)
    truth = data.samples["test"]
    for stage in ("fit", "validate", "predict"):
        data.setup(stage)
        assert all((s.label, s.mask_path) == (0, None) for s in data.samples["test"])
        assert data.counts()["test_anomalous"] == 4
        (batch,) = data.predict_dataloader()
        assert not batch.mask.any()
        assert not batch.label.any()
        assert set(batch.defect) == {"good"}
    data.setup("test")
    assert data.samples["test"] == truth
    assert sum(s.label for s in truth) == 4


def test_a_mask_that_tells_what_is_ignored_tells_that_alone(trees, tmp_path):
    root = shutil.copytree(trees["mvtec"], tmp_path / "mvtec")
    for mask in (root / "bottle/ground_truth/broken").glob("*.png"):
        values = np.array(Image.open(mask))
        values[:4] = 128
        Image.fromarray(values).save(mask)
    data = module({"mvtec": root}, batch_size=7, ignore_value=128)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.ignore.any()
    assert not batch.mask.any()
    assert not batch.label.any()


def test_homes_are_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = {name: f"~/{name}" for name in ("root", "train_folder", "textures", "ignore")}
    data = AnomalyDataModule("folder", **folders, layout_options={"good": "~/good"})
    found = [str(data.root), data.train_folder, data.textures, data.ignore]
    assert found == [f"{tmp_path}/{name}" for name in folders]
    assert data.layout_options == {"good": f"{tmp_path}/good"}


def test_added_images_are_those_of_the_layout_however_they_are_spelled(trees, tmp_path):
    root = tmp_path / "link"
    root.symlink_to(trees["folder"])
    for folder in (trees["folder"] / "good", root / "good", root / "bad/../good"):
        data = AnomalyDataModule("folder", str(root), train_folder=str(folder))
        data.setup("fit")
        assert len(data.samples["train"]) == 6
