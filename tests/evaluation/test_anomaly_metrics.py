"""All metrics as one class: the numbers of the functions, in any batches, and a sound state."""

import pickle
import warnings

import pytest
import torch

from lightning_ad.errors import UserError
from lightning_ad.evaluation import (
    AUPRO,
    AUROC,
    METRIC_NAMES,
    AnomalyMetrics,
    AveragePrecision,
    F1Max,
    curve_of,
    region_weights,
)
from lightning_ad.evaluation import functional as functions
from lightning_ad.evaluation.catalogue import PLOTS


@pytest.fixture
def data():
    """Seven images, the last four anomalous; scores far outside [0, 1]."""
    draw = torch.Generator().manual_seed(3)
    label = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    mask = torch.zeros(7, 16, 16, dtype=torch.bool)
    for image in range(3, 7):
        mask[image, image : image + 4, 2:9] = mask[image, 14, 14] = True
    map = torch.rand(7, 16, 16, generator=draw) * 60 - 10 + mask * 12
    score = torch.rand(7, generator=draw) * 60 - 10 + label * 15
    return map, score, mask, label


def filled(data, sizes=None):
    metrics = AnomalyMetrics()
    for batch in zip(*(tensor.split(sizes or [len(tensor)]) for tensor in data), strict=True):
        metrics.update(*batch)
    return metrics


def test_equals_the_single_metrics(data):
    map, score, mask, label = data
    got = filled(data).compute()
    assert tuple(got) == METRIC_NAMES
    pairs = {"image": (score, label), "pixel": (map, mask)}
    for level, (scores, target) in pairs.items():
        for name, metric in {"AUROC": AUROC(), "AP": AveragePrecision(), "F1Max": F1Max()}.items():
            metric.update(scores, target)
            assert got[f"{level}_{name}"] == metric.compute().item()
    for name, metric in {
        "pixel_AUPRO_0.30": AUPRO(),
        "pixel_AUPRO_0.05": AUPRO(limit=0.05),
    }.items():
        metric.update(map, mask)
        assert got[name] == metric.compute().item()


def test_equals_the_functions(data):
    map, score, mask, label = data
    got = filled(data).compute()
    image = curve_of(score, label.float())
    pixel = curve_of(map.flatten(), region_weights(mask).flatten())
    assert got["image_AUROC"] == functions.auroc(image)
    assert got["pixel_AP"] == functions.average_precision(pixel)
    assert got["pixel_F1Max"] == functions.f1_max(pixel)[0]
    assert got["pixel_AUPRO_0.05"] == functions.aupro(pixel, 0.05)
    for name in ("image_AUROC", "pixel_AUROC"):  # the data tell good from bad, but not perfectly
        assert 0.5 < got[name] < 1


@pytest.mark.parametrize("sizes", [[3, 4], [1, 0, 6], [1] * 7])
def test_batches_do_not_matter(data, sizes):
    assert filled(data, sizes).compute() == filled(data).compute()


def test_no_sigmoid_is_applied(data):
    _, score, _, label = data
    scores = torch.cat([score, score + 50])
    metric = AUROC()
    for part, truth in zip(scores.split(2), torch.cat([label, label]).split(2), strict=True):
        metric.update(part, truth)
    assert metric.compute().item() == functions.auroc(
        curve_of(scores, torch.cat([label, label]).float())
    )


def test_anomalous_image_without_outline_has_no_pixel_truth(data):
    map, score, mask, label = data
    extra = (map[:1] + 100, score[:1] + 100, torch.zeros_like(mask[:1]), torch.ones_like(label[:1]))
    metrics = filled(data)
    before = metrics.compute()
    metrics.update(*extra)
    after = metrics.compute()
    assert sum(len(state) for state in metrics.pixel_scores) == map.numel()
    assert sum(len(state) for state in metrics.image_scores) == 8
    assert after["image_AP"] != before["image_AP"]
    assert all(after[name] == before[name] for name in METRIC_NAMES if name.startswith("pixel"))
    good = (extra[0], extra[1], extra[2], torch.zeros_like(label[:1]))
    metrics.update(*good)
    assert metrics.compute()["pixel_AUROC"] < before["pixel_AUROC"]


def test_plots_are_small_and_whole(data):
    metrics = filled(data)
    metrics.compute()
    assert list(metrics.plots) == list(PLOTS)
    for x, y in metrics.plots.values():
        assert 2 < len(x) == len(y) <= 300
        assert all(type(value) is float for value in x + y)
        assert x[0] == 0
        assert x[-1] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted(data, dtype):
    map, score, mask, label = data
    half, full = filled((map.to(dtype), score.to(dtype), mask, label)), AnomalyMetrics()
    full.update(map.to(dtype).float(), score.to(dtype).float(), mask, label)
    assert half.pixel_scores[0].dtype == half.pixel_weights[0].dtype == torch.float32
    assert half.compute() == full.compute()


def test_inference_mode(data):
    with torch.inference_mode():
        metrics = filled(data, [3, 4])
        inside = metrics.compute()
    assert inside == filled(data).compute()
    metrics.update(*data)
    assert metrics.compute()["image_AUROC"] == pytest.approx(inside["image_AUROC"])


def test_state_survives_pickling_and_cloning_and_forgets_on_reset(data):
    metrics = filled(data, [3, 4])
    clone, copy = metrics.clone(), pickle.loads(pickle.dumps(metrics))
    expected = metrics.compute()
    assert clone.compute() == copy.compute() == expected
    copy = pickle.loads(pickle.dumps(metrics))
    assert copy.compute() == expected
    assert copy.plots == metrics.plots
    metrics.reset()
    assert metrics.plots == {}
    assert metrics.pixel_scores == []
    metrics.update(*data)
    assert metrics.compute() == expected
    assert metrics.state_dict() == {}


def test_a_new_test_begins_with_its_own_budget_and_kinds_of_defect(data):
    metrics = filled(data)
    exact = metrics.compute()
    metrics.begin(memory_gb=0.0, kinds=["good", "scratch"])
    assert metrics.plots == {}
    metrics.update(*data)
    with pytest.warns(UserWarning, match="were counted in bins"):
        got = metrics.compute()
    assert got["image_AUROC"] == exact["image_AUROC"]
    assert metrics.bounds
    assert "scratch" in metrics.details["by_defect"]


def test_goes_on_after_compute(data):
    metrics = filled([tensor[:4] for tensor in data])
    metrics.compute()
    metrics.update(*(tensor[4:] for tensor in data))
    assert metrics.compute() == filled(data).compute()


def test_nothing_seen_is_nan_without_an_error(data):
    metrics = AnomalyMetrics()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchmetrics warns that nothing was seen
        empty = metrics.compute()
    metrics.update(*(tensor[:0] for tensor in data))
    metrics.update(*(tensor[:3] for tensor in data))  # good images only
    for values in (empty, metrics.compute()):
        assert all(value != value for value in values.values())
    assert all(plot == ([], []) for plot in metrics.plots.values())


def test_bad_input_is_refused(data):
    map, score, mask, label = data
    with pytest.raises(ValueError, match="map and mask"):
        AnomalyMetrics().update(map[:, :8], score, mask, label)
    with pytest.raises(ValueError, match="score and label"):
        AnomalyMetrics().update(map, score[:3], mask, label)
    with pytest.raises(ValueError, match="7 maps and 3"):
        AnomalyMetrics().update(map, score[:3], mask, label[:3])
    with pytest.raises(TypeError, match="bool"):
        AUPRO().update(map, mask.float())
    with pytest.raises(UserError, match="1 of 3 are NaN"):
        filled((map, score.index_fill(0, torch.tensor(2), float("nan")), mask, label)).compute()


def test_above_the_budget_pixels_are_binned_and_the_bounds_hold_the_exact_metrics(data):
    exact = filled(data).compute()
    metrics = AnomalyMetrics(memory_gb=3 * 16 * 16 * 16 / 2**30)  # three images
    batches = [[t[i : i + 2] for t in data] for i in range(0, 7, 2)]
    metrics.update(*batches[0])
    assert len(metrics.pixel_scores) == 1
    metrics.update(*batches[1])
    assert metrics.pixel_scores == []
    for batch in batches[2:]:
        metrics.update(*batch)
    assert sum(t.numel() for t in metrics.pixel_scores) == 0
    with pytest.warns(UserWarning, match=r"were counted in bins.*--metrics_gb allows more"):
        got = metrics.compute()
    assert {k: v for k, v in got.items() if k.startswith("image")} == {
        k: v for k, v in exact.items() if k.startswith("image")
    }
    assert set(metrics.bounds) == {name for name in METRIC_NAMES if name.startswith("pixel")}
    for name, (low, high) in metrics.bounds.items():
        assert low <= exact[name] <= high
        assert high - low < 0.02
    assert metrics.compute() == got
    metrics.reset()
    assert metrics.bounds == {}
    metrics.update(*batches[0])
    assert len(metrics.pixel_scores) == 1
