"""Every method: what an ignored region shows changes nothing, and no score comes from it."""

import shutil
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from learning import fit
from PIL import Image
from small import ALL, small_arguments
from small_fits import tree_data

from lightning_ad import methods
from lightning_ad.data.tiling import Tiles

OPTIONS = {
    "PatchCore": {"coreset_ratio": 0.2, "reweight": 3},
    "MahalanobisAD": {"map": True},
    "CFA": {"gamma_d": 8},
}
STRIP = slice(28, 48)  # columns that are ignored


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


@cache
def fitted(name, twins, which):
    """A fitted method, its scores, maps and metrics, and its data; nothing of it may be changed."""
    torch.manual_seed(0)
    module = getattr(methods, name)(**{**small_arguments(name), **OPTIONS.get(name, {})})
    data = tree_data(
        twins / which,
        validation="holdout",
        validation_share=0.25,
        validation_anomalies=True,
        ignore=str(twins / "ignore.png"),
    )
    trainer = fit(module, data, epochs=1)
    rows = trainer.predict(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return (
        module,
        torch.cat([p.score for p in rows]),
        torch.cat([p.map for p in rows]),
        trainer.callback_metrics,
        data,
    )


def of_methods(names):
    """A test of each method; those of one method in one process, which fits it once."""
    return pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=pytest.mark.xdist_group(f"ignored {name}")) for name in names],
    )


@of_methods(ALL)
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
    assert {k: float(v) for k, v in metrics.items()} == pytest.approx(
        {k: float(v) for k, v in other_metrics.items()}
    )
    assert torch.equal(one.calibration.good, other.calibration.good)
    ignored = data.dataset("test")[0].ignore[0]
    assert bool((maps[:, ignored].amax(1) <= maps[:, ~ignored].amin(1)).all())


@of_methods(ALL)
def test_no_score_comes_from_it(name, twins):
    """The place of the highest score has none once it is ignored.

    The score falls with it, if it comes from the map.
    """
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
    rest = module.score(torch.where(ignore[:, None], 0.5, image), ignore)
    assert torch.equal(rest.map.isfinite(), torch.ones_like(ignore))
    for k in range(2):
        assert found.map[k][ignore[k]].max() <= found.map[k][~ignore[k]].min()
        assert found.map[k].max() <= plain.map[k].max()
    if name not in ("SPADE", "MahalanobisAD"):  # those judge the image as a whole
        assert bool((found.score < plain.score).all())


@of_methods(["PaDiM", "CFA", "PFM", "SPADE", "PatchCore"])
def test_no_score_spreads_from_it(name, twins, monkeypatch):
    """An ignored patch is hidden before its score is enlarged and smoothed, however high it is."""
    module = fitted(name, twins, "one")[0].eval()
    ignore = torch.zeros(1, 64, 64, dtype=torch.bool)
    ignore[:, :32] = True
    seen = []
    place = import_module(type(module).__module__)
    real = place.score_map

    def with_a_peak(scores, *rest):
        scores = scores.clone()
        scores[:, : scores.shape[1] // 2] = 1e8
        seen.append(scores)
        return real(scores, *rest)

    monkeypatch.setattr(place, "score_map", with_a_peak)
    with torch.no_grad():
        assert float(module.score(torch.rand(1, 3, 64, 64), ignore).map.max()) < 1e6
        assert float(module.score(torch.rand(1, 3, 64, 64)).map.max()) > 1e6
    assert seen


@of_methods(["SPADE", "PatchCore"])
def test_a_tile_that_is_ignored_everywhere_gives_no_score(name, twins, monkeypatch):
    module = fitted(name, twins, "one")[0].eval()
    monkeypatch.setattr(module, "tiles", Tiles.of((64, 128), 64, 32))
    image = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(3))
    ignore = torch.zeros(1, 64, 128, dtype=torch.bool)
    with torch.no_grad():
        alone = [
            float(module(module.tiles.cut(image, number)).score)
            for number in range(len(module.tiles))
        ]
        worst = alone.index(max(alone))
        module.tiles.cut(ignore, worst)[:] = True
        scores = [
            float(module(module.tiles.cut(image, n), module.tiles.cut(ignore, n)).score)
            for n in range(len(module.tiles))
            if n != worst
        ]
        assert float(module.score(image, ignore).score) == max(scores) < max(alone)


@of_methods(["PatchCore", "PaDiM"])
def test_suspicion_does_not_come_from_it(name, twins):
    module, *_, data = fitted(name, twins, "one")
    item = data.training_set()[1]
    index, ignore = torch.tensor([1]), torch.zeros(1, 64, 64, dtype=torch.bool)
    with torch.no_grad():
        row, column = divmod(int(module.eval()(item.image).map.argmax()), 64)
        ignore[:, max(0, row - 20) : row + 20, max(0, column - 20) : column + 20] = True
        assert module.leave_one_out(item.image, index, ignore) <= module.leave_one_out(
            item.image, index
        )
        assert module.leave_one_out(item.image, index, ~ignore).isfinite().all()
