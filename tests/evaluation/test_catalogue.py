"""A metric or a plot that is added as a line of the catalogue is there without another change."""

from functools import partial

import pytest
import torch

from lightning_ad.evaluation import AnomalyMetrics, aupro, auroc, curve_of, region_weights, roc
from lightning_ad.evaluation.catalogue import METRICS, PLOTS, Plot, of_kind, oracle


@pytest.fixture
def scene():
    draw = torch.Generator().manual_seed(0)
    label = torch.arange(6) % 2
    mask = (torch.rand(6, 8, 8, generator=draw) > 0.7) & label.bool()[:, None, None]
    map = torch.rand(6, 8, 8, generator=draw) + 0.3 * mask
    return map, map.amax((1, 2)), mask, label


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("memory_gb", [4.0, 1e-9])
def test_a_metric_of_a_curve_is_one_line(scene, monkeypatch, memory_gb):
    name = "pixel_AUPRO_1.00"
    monkeypatch.setitem(METRICS, name, partial(aupro, limit=1.0))
    metrics = AnomalyMetrics(memory_gb)
    metrics.update(*scene)
    found = metrics.compute()
    map, _, mask, _ = scene
    exact = aupro(curve_of(map.flatten(), region_weights(mask).flatten()), 1.0)
    assert found[name] == pytest.approx(exact, abs=1e-3)
    assert name in metrics.details["by_defect"]["anomalous"]
    if metrics.bounds:
        low, high = metrics.bounds[name]
    else:
        low, high = metrics.intervals[name]
    assert low <= exact <= high


def test_a_plot_is_one_line(scene, monkeypatch):
    monkeypatch.setitem(PLOTS, "pixel ROC again", Plot(roc, "x", "y"))
    metrics = AnomalyMetrics()
    metrics.update(*scene)
    metrics.compute()
    assert metrics.plots["pixel ROC again"] == metrics.plots["pixel ROC"]


def test_metrics_of_images_and_of_pixels():
    metrics = {"image_AUROC": auroc, "pixel_AUROC": auroc, "images": auroc}
    assert list(of_kind(metrics, "image")) == ["image_AUROC"]
    assert list(of_kind(metrics, "pixel")) == ["pixel_AUROC"]
    assert {name for name in METRICS if oracle(name)} == {"image_F1Max", "pixel_F1Max"}
