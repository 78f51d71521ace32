"""Every method: what an ignored region shows changes nothing, and no score comes from it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from contract import SMALL
from learning import SMALL_PFM, fit
from PIL import Image

from lightning_ad import methods
from lightning_ad.data.datamodule import AnomalyDataModule

OPTIONS = {
    "PatchCore": {**SMALL, "coreset_ratio": 0.2, "reweight": 3},
    "PaDiM": {**SMALL, "dimension": 20},
    "SPADE": {**SMALL, "k_pixel": 3},
    "MahalanobisAD": {**SMALL, "map": True},
    "CFA": {**SMALL, "gamma_d": 8},
    "PFM": SMALL_PFM,
    "DRAEM": {"reconstructive_width": 8, "discriminative_width": 8},
}
STRIP = slice(28, 48)  # columns that are ignored


def test_every_method_is_here():
    assert OPTIONS.keys() == {name for name in methods.__all__ if hasattr(getattr(methods, name), "test_step")} - {
        "AnomalyModule", "FitOnlyModule", "LearnedModule"
    }  # fmt: skip


@pytest.fixture(scope="module")
def twins(trees, tmp_path_factory):
    """Two data sets that differ in the ignored strip alone, and the file that tells it."""
    folder = tmp_path_factory.mktemp("twins")
    draw = np.random.default_rng(0)
    for name in ("one", "other"):
        shutil.copytree(trees["even"], folder / name)
    for path in (folder / "other").rglob("*.png"):
        if "ground_truth" not in str(path):
            array = np.array(Image.open(path))
            array[:, STRIP] = draw.integers(0, 256, array[:, STRIP].shape)
            Image.fromarray(array).save(path)
    ignore = np.zeros((40, 48), np.uint8)
    ignore[:, STRIP] = 255
    Image.fromarray(ignore).save(folder / "ignore.png")
    return folder


def fitted(name, twins, which):
    torch.manual_seed(0)
    module = getattr(methods, name)(**OPTIONS[name])
    data = AnomalyDataModule(
        "mvtec", str(twins / which), "bottle", image_size=64, batch_size=4, num_workers=0, validation="holdout",
        validation_share=0.25, validation_anomalies=True, ignore=str(twins / "ignore.png"),
    )  # fmt: skip
    trainer = fit(module, data, epochs=1)
    rows = trainer.predict(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return module, torch.cat([p.score for p in rows]), torch.cat([p.map for p in rows]), trainer.callback_metrics, data


@pytest.mark.parametrize("name", OPTIONS)
def test_what_it_shows_changes_nothing(name, twins):
    """Not a bit of what is learned, of a map, a score, a metric or the calibration."""
    one, scores, maps, metrics, data = fitted(name, twins, "one")
    other, other_scores, other_maps, other_metrics, other_data = fitted(name, twins, "other")
    first, second = (Path(d.samples["test"][0].path).read_bytes() for d in (data, other_data))
    assert first != second
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert torch.equal(scores, other_scores)
    assert torch.equal(maps, other_maps)
    assert {k: float(v) for k, v in metrics.items()} == pytest.approx({k: float(v) for k, v in other_metrics.items()})
    assert torch.equal(one.calibration.good, other.calibration.good)
    ignored = data._data("test", None)[0].ignore[0]
    assert bool((maps[:, ignored].amax(1) <= maps[:, ~ignored].amin(1)).all())


@pytest.mark.parametrize("name", OPTIONS)
def test_no_score_comes_from_it(name, twins):
    """The place of the highest score, once it is ignored, has none, and the score falls where maps make it."""
    module = fitted(name, twins, "one")[0].eval()
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = module.score(image)
        ignore = torch.zeros(2, 64, 64, dtype=torch.bool)
        for one, map in zip(ignore, plain.map, strict=True):
            row, column = divmod(int(map.argmax()), 64)
            one[max(0, row - 16) : row + 16, max(0, column - 16) : column + 16] = True
        found = module.score(image, ignore)
        nothing = module.score(image, torch.zeros_like(ignore))
    assert torch.equal(nothing.map, plain.map)
    assert torch.equal(nothing.score, plain.score)
    for k in range(2):
        assert found.map[k][ignore[k]].max() <= found.map[k][~ignore[k]].min()
        assert found.map[k].max() <= plain.map[k].max()
    if name not in ("SPADE", "MahalanobisAD"):  # those judge the image as a whole
        assert bool((found.score < plain.score).all())
