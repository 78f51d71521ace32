"""Intervals and comparisons against SciPy's bootstrap and against what they promise."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from lightning_ad.errors import UsageError
from lightning_ad.evaluation import auroc, average_precision
from lightning_ad.evaluation.intervals import intervals, paired_difference


def draw(rng, good=60, bad=40, shift=1.0):
    labels = np.repeat([0, 1], [good, bad])
    return rng.normal(size=good + bad) + shift * labels, labels


@pytest.mark.parametrize(("metric", "outside"), [(auroc, roc_auc_score), (average_precision, average_precision_score)])
def test_intervals_are_those_of_scipy(metric, outside):
    scores, labels = draw(np.random.default_rng(0))
    found = intervals({"it": metric}, scores, labels, draws=2000)["it"]

    def statistic(good, bad):
        return outside(np.repeat([0, 1], [len(good), len(bad)]), np.concatenate([good, bad]))

    parts = (scores[labels == 0], scores[labels == 1])
    expected = stats.bootstrap(
        parts, statistic, n_resamples=2000, method="percentile", random_state=1, vectorized=False
    )
    assert found == pytest.approx((expected.confidence_interval.low, expected.confidence_interval.high), abs=0.012)


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


def test_a_better_run_is_told():
    scores, labels = draw(np.random.default_rng(3), 200, 200)
    worse = scores + np.random.default_rng(4).normal(size=400) * 2
    found = paired_difference(auroc, worse, scores, labels, draws=300)
    assert found.value == pytest.approx(roc_auc_score(labels, scores) - roc_auc_score(labels, worse), abs=1e-6)
    assert 0 < found.low < found.value < found.high
    assert found.p < 0.02
    back = paired_difference(auroc, scores, worse, labels, draws=300)
    assert back == pytest.approx((-found.value, -found.high, -found.low, found.p), abs=1e-12)


def test_one_kind_alone():
    assert intervals({"it": auroc}, np.arange(3.0), np.zeros(3)) == {}
    with pytest.raises(UsageError, match="only one kind"):
        paired_difference(auroc, np.arange(3.0), np.arange(3.0), np.ones(3))
