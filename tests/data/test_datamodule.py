import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import KFold

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.sample import Batch, collate
from lightning_ad.data.sampler import RowKey
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


@pytest.mark.parametrize("workers", [0, 2])
def test_training_order_is_that_of_one_worker(trees, workers):
    def paths(workers):
        loader = module(trees, batch_size=3, num_workers=workers).train_dataloader()
        loader.sampler.set_epoch(2)
        return [p for b in loader for p in b.path]

    assert paths(workers) == paths(0)
    assert paths(workers) != sorted(paths(workers))


@pytest.mark.parametrize(("asked", "workers"), [(None, 0), (0, 0), (3, 3)])
def test_as_many_workers_as_are_asked_for(asked, workers, trees):
    assert module(trees, num_workers=asked).test_dataloader().num_workers == workers


def test_images_that_threads_read_side_by_side_keep_their_order(trees):
    data = module(trees).test_dataloader().dataset
    keys = [RowKey(row) for row in (4, 0, 6, 2, 5)]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = collate(data.__getitems__(keys))
    finally:
        torch.set_num_threads(before)
    alone = collate([data[key] for key in keys])
    assert found.path == alone.path == [data.samples[row].path for row in (4, 0, 6, 2, 5)]
    assert torch.equal(found.image, alone.image)
    assert torch.equal(found.mask, alone.mask)


def test_holdout_takes_a_seeded_part_of_the_training_images(trees):
    data = module(trees, validation="holdout", validation_share=0.3)
    train, held = ({s.path for s in data.samples[split]} for split in ("train", "validation"))
    assert len(train) == 5
    assert len(held) == 2
    assert not train & held
    assert {
        s.path
        for s in module(trees, validation="holdout", validation_share=0.3).samples["validation"]
    } == held
    assert {s.label for s in data.samples["validation"]} == {0}


def test_folds_are_those_of_scikit_learn(trees):
    paths = [s.path for s in module(trees).samples["train"]]
    for fold, (train, held) in enumerate(KFold(5, shuffle=True, random_state=3).split(paths)):
        samples = module(trees, validation="fold", fold=fold, seed=3).samples
        assert [s.path for s in samples["train"]] == [paths[row] for row in train]
        assert [s.path for s in samples["validation"]] == [paths[row] for row in held]
    with pytest.raises(DataError, match=r"7 training images are too few for 8 data\.folds"):
        module(trees, validation="fold", folds=8)


def test_given_validation_must_be_there(trees):
    with pytest.raises(UsageError, match="has no validation set"):
        module(trees, validation="given")


def test_an_empty_training_set_stops(tmp_path):
    (tmp_path / "good").mkdir()
    with pytest.raises(DataError, match="no training image"):
        AnomalyDataModule(layout="folder", root=str(tmp_path), layout_options={"bad": None}).setup()


def test_rows_that_fill_up_are_left_out(trees):
    data = module(trees).test_dataloader().dataset
    batch = collate([data[RowKey(0)], data[RowKey(1, 0, True)], data[RowKey(4)]])
    batch.recipe = {"angle": torch.arange(3)}
    real = batch.without_padding()
    assert real.index.tolist() == [0, 4]
    assert real.path == [batch.path[0], batch.path[2]]
    assert real.recipe["angle"].tolist() == [0, 2]
    assert isinstance(real, Batch)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"num_workers": -1}, {"validation_share": 1.5}, {"folds": 1}, {"fold": 5}],
)
def test_impossible_wishes(options):
    with pytest.raises(UsageError, match=r"data\."):
        AnomalyDataModule(**options)


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
