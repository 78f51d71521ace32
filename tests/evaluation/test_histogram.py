"""The exact metrics lie within the bounds, on whatever scores hypothesis can think of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from lightning_ad.errors import UserError
from lightning_ad.evaluation import aupro, auroc, average_precision, curve_of, f1_max
from lightning_ad.evaluation.functional import sensitivity
from lightning_ad.evaluation.histogram import (
    BINS,
    Histogram,
    add_histograms,
    bin_of,
    curve_of_histogram,
    exact_bounds,
    lowest_of,
)

METRICS = {
    "AUROC": auroc,
    "AP": average_precision,
    "F1Max": lambda c: f1_max(c)[0],
    "AUPRO": lambda c: aupro(c, 0.3),
    "AUPRO_0.05": lambda c: aupro(c, 0.05),
    "sensitivity": lambda c: sensitivity(c, 0.1),
}
floats = st.floats(width=32, allow_nan=False)
scores = st.one_of(
    arrays.arrays(np.float32, st.integers(2, 60), elements=floats),
    arrays.arrays(
        np.float32,
        st.integers(2, 60),
        elements=st.sampled_from([0.0, -0.0, 1.0, 1.0001, 1.00002, 60.0]),
    ),
    arrays.arrays(np.float32, st.integers(2, 60), elements=st.floats(1, 1 + 2**-12, width=32)),
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_the_exact_metrics_lie_within_the_bounds(data):
    values = data.draw(scores)
    truth = data.draw(arrays.arrays(bool, len(values)))
    gains = np.where(truth, np.float32(1) / data.draw(st.integers(1, 9)), np.float32(0)).astype(
        np.float32
    )
    s, w = torch.from_numpy(values), torch.from_numpy(gains)
    exact, binned = curve_of(s, w), curve_of_histogram(Histogram.of(s, w))
    for metric in METRICS.values():
        low, high = exact_bounds(binned, metric)
        if not exact.defined:
            assert np.isnan([low, high]).all()
            continue
        for value in (metric(exact), metric(binned)):
            assert low - 1e-9 <= value <= high + 1e-9


@given(arrays.arrays(np.float32, st.integers(1, 200), elements=floats))
@settings(max_examples=300, deadline=None)
def test_bins_keep_the_order(values):
    values = np.sort(values)
    bins = bin_of(torch.from_numpy(values)).numpy()
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() < BINS
    assert (lowest_of(bins) <= values).all()
    assert (bin_of(torch.from_numpy(lowest_of(bins))).numpy() == bins).all()


def normal(count=20000):
    draw = np.random.default_rng(0)
    truth = draw.random(count) < 0.05
    return (draw.normal(size=count) + 2 * truth).astype(np.float32), truth


def test_against_scikit_learn():
    values, truth = normal()
    binned = curve_of_histogram(
        Histogram.of(torch.from_numpy(values), torch.from_numpy(truth.astype(np.float32)))
    )
    precision, recall, _ = precision_recall_curve(truth, values)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    expected = (roc_auc_score(truth, values), average_precision_score(truth, values), f1)
    for metric, exact in zip(list(METRICS.values())[:3], expected, strict=True):
        low, high = exact_bounds(binned, metric)
        assert low <= exact <= high
        assert high - low < 2e-3
        assert abs(metric(binned) - exact) < 1e-3


def test_scores_in_few_bins_have_a_wide_bound_and_say_so():
    values, truth = normal()
    narrow = torch.from_numpy((1 + values * 1e-6).astype(np.float32))
    binned = curve_of_histogram(Histogram.of(narrow, torch.from_numpy(truth.astype(np.float32))))
    low, high = exact_bounds(binned, auroc)
    assert high - low > 0.1


def test_histograms_of_parts_add_up():
    values, truth = (torch.from_numpy(a) for a in normal())
    whole = Histogram.of(values, truth.float())
    parts = [Histogram.of(values[i::3], truth[i::3].float()) for i in range(3)]
    for total, some in zip(whole, add_histograms(parts), strict=True):
        np.testing.assert_array_equal(total, some)
    assert whole.positives.sum() == int(truth.sum())
    assert whole.negatives.sum() == int((~truth).sum())


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="NaN"):
        Histogram.of(torch.tensor([float("nan")]), torch.ones(1))
    with pytest.raises(ValueError, match="weight"):
        Histogram.of(torch.zeros(2), torch.ones(1))
