"""Intervals and comparisons against SciPy's bootstrap, and how often they hold."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from lightning_ad.errors import UsageError, UserError
from lightning_ad.evaluation import aupro, auroc, average_precision, curve_of
from lightning_ad.evaluation.bootstrap import (
    image_pixels,
    intervals,
    paired_difference,
    pixel_intervals,
)


def draw(rng, good=60, bad=40, shift=1.0):
    labels = np.repeat([0, 1], [good, bad])
    return rng.normal(size=good + bad) + shift * labels, labels


@pytest.mark.parametrize(
    ("metric", "outside"), [(auroc, roc_auc_score), (average_precision, average_precision_score)]
)
def test_intervals_are_those_of_scipy(metric, outside):
    scores, labels = draw(np.random.default_rng(0))
    found = intervals({"it": metric}, scores, labels, draws=2000)["it"]

    def statistic(good, bad):
        return outside(np.repeat([0, 1], [len(good), len(bad)]), np.concatenate([good, bad]))

    parts = (scores[labels == 0], scores[labels == 1])
    expected = stats.bootstrap(
        parts, statistic, n_resamples=2000, method="percentile", random_state=1, vectorized=False
    )
    assert found == pytest.approx(
        (expected.confidence_interval.low, expected.confidence_interval.high), abs=0.012
    )


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    held = 0
    for _ in range(120):
        low, high = intervals({"it": auroc}, *draw(rng), draws=200)["it"]
        held += low <= truth <= high
    assert 0.87 <= held / 120 <= 1.0


def test_two_runs_of_one_kind_seldom_differ():
    rng = np.random.default_rng(2)
    ps = []
    for _ in range(60):
        scores, labels = draw(rng)
        first, second = scores + rng.normal(size=100), scores + rng.normal(size=100)
        ps.append(paired_difference(auroc, first, second * 7 - 3, labels, draws=200).p)
    assert np.mean(np.array(ps) <= 0.05) <= 0.13
    assert np.mean(ps) > 0.3


def test_a_better_run_is_recognised():
    scores, labels = draw(np.random.default_rng(3), 200, 200)
    worse = scores + np.random.default_rng(4).normal(size=400) * 2
    found = paired_difference(auroc, worse, scores, labels, draws=300)
    assert found.value == pytest.approx(
        roc_auc_score(labels, scores) - roc_auc_score(labels, worse), abs=1e-6
    )
    assert 0 < found.low < found.value < found.high
    assert found.p < 0.02
    back = paired_difference(auroc, scores, worse, labels, draws=300)
    assert back == pytest.approx((-found.value, -found.high, -found.low, found.p), abs=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_curve_of_each_test_set_is_that_of_its_images(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=40) / 8
    scores[3] = np.inf
    labels = np.repeat([0, 1], [25, 15])
    found = []
    intervals({"it": lambda curve: found.append(curve) or 0.0}, scores, labels, seed=1, draws=20)
    again = np.random.default_rng(1)
    for curve in found:
        rows = np.concatenate([again.choice(25, 25), 25 + again.choice(15, 15)])
        weights = torch.from_numpy(labels[rows]).float()
        expected = curve_of(torch.from_numpy(scores[rows]), weights)
        for column, of_images in zip(curve, expected, strict=True):
            np.testing.assert_array_equal(column, of_images)


def test_a_test_set_that_is_drawn_again_counts_again_and_is_measured_once():
    scores = np.array([0.1, 0.6, 0.3, 0.2, 0.7])
    labels = np.array([0, 0, 0, 1, 1])
    measured = []
    found = intervals(
        {"it": lambda curve: measured.append(curve) or auroc(curve)}, scores, labels, draws=300
    )
    again = np.random.default_rng(0)
    values = []
    for _ in range(300):
        rows = np.concatenate([again.choice(3, 3), 3 + again.choice(2, 2)])
        values.append(roc_auc_score(labels[rows], scores[rows]))
    assert found["it"] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)
    assert len(measured) <= 10 * 3  # ways to draw three good images, and two anomalous ones


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="1 of 4 are NaN"):
        intervals({"it": auroc}, np.array([0.0, 1.0, np.nan, 2.0]), np.array([0, 0, 1, 1]))


def test_one_kind_alone():
    assert intervals({"it": auroc}, np.arange(3.0), np.zeros(3)) == {}
    with pytest.raises(UsageError, match="only one kind"):
        paired_difference(auroc, np.arange(3.0), np.arange(3.0), np.ones(3))


def test_pixel_intervals_equal_a_bootstrap_without_bins():
    draw = np.random.default_rng(2)
    images = []
    for number in range(30):
        weights = np.where(draw.random(400) < 0.05, 0.5, 0.0) if number % 3 else np.zeros(400)
        images.append(
            (
                (draw.normal(size=400) + 2 * (weights > 0) * draw.random()).astype(np.float32),
                weights,
            )
        )
    images.sort(key=lambda image: image[0].max())
    metrics = {"pixel_AUROC": auroc, "pixel_AP": average_precision, "pixel_AUPRO": aupro}
    order = draw.permutation(30)
    found = pixel_intervals(metrics, image_pixels([images[i] for i in order]), seed=3, draws=60)
    draw, values = np.random.default_rng(3), []
    kinds = [[i for i in range(30) if images[i][1].any() == kind] for kind in (False, True)]
    for _ in range(60):
        rows = np.concatenate([draw.choice(rows, len(rows)) for rows in kinds])
        score, weights = (np.concatenate([images[i][part] for i in rows]) for part in (0, 1))
        curve = curve_of(torch.from_numpy(score), torch.from_numpy(weights).float())
        values.append(
            [
                roc_auc_score(weights > 0, score),
                average_precision_score(weights > 0, score),
                aupro(curve),
            ]
        )
    expected = np.quantile(values, [0.025, 0.975], axis=0).T
    for ends, exact in zip(found.values(), expected, strict=True):
        assert ends == pytest.approx(exact, abs=2e-3)
        assert ends[1] - ends[0] > 0.01
    some = np.arange(30) % 4 < 2
    alone = pixel_intervals(
        metrics, image_pixels([image for image, kept in zip(images, some, strict=True) if kept])
    )
    among = pixel_intervals(metrics, image_pixels([images[i] for i in order]), some[order])
    for name, ends in among.items():
        assert ends == pytest.approx(alone[name], abs=2e-3)


def test_pixel_intervals_need_good_and_anomalous_images():
    good = image_pixels([(np.ones(4, np.float32), np.zeros(4))])
    assert pixel_intervals({"pixel_AUROC": auroc}, good) == {}
    constant = [(np.zeros(4, np.float32), np.zeros(4)), (np.zeros(4, np.float32), np.ones(4))]
    assert pixel_intervals({"pixel_AUROC": auroc}, image_pixels(constant)) == {
        "pixel_AUROC": (0.5, 0.5)
    }
