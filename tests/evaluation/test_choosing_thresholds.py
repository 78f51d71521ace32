"""How a run's threshold is chosen: each method by hand or by an outside reference, and what each asks for."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from lightning_ad.errors import UsageError
from lightning_ad.evaluation.thresholds import Calibration, choose


def calibration(good=200, bad=30):
    draw = torch.Generator().manual_seed(1)
    scores = [torch.randn(n, generator=draw).sort().values for n in (good, good, bad)]
    return Calibration(scores[0], scores[1] + 3, scores[2] + 2)


def test_conformal_is_the_default_where_there_are_enough_images():
    found = choose(None, None, calibration())
    assert (found.method, found.image) == (
        "conformal",
        calibration().good[-2].item(),
    )  # 201 * 1 %: 2, one of them new
    assert found.pixel == calibration().maxima[-2].item()
    assert "at most 1 % of good parts, on average, by 200" in found.basis
    assert choose(None, None, calibration(98)) is None
    assert choose(None, 0.1, calibration(9)).image == calibration(9).good[-1].item()
    with pytest.raises(UsageError, match="takes the scores of 99 held-out good images"):
        choose("conformal", None, calibration(98))


def test_quantile_is_numpys():
    found, held = choose("quantile", 0.07, calibration()), calibration()
    assert found.image == pytest.approx(np.quantile(held.good.double().numpy(), 0.93), abs=1e-9)
    assert found.pixel == pytest.approx(np.quantile(held.maxima.double().numpy(), 0.93), abs=1e-9)
    with pytest.raises(UsageError, match="--threshold quantile needs held-out"):
        choose("quantile", None, Calibration.empty())


def test_f1_is_the_best_on_validation_images():
    held = calibration()
    found = choose("f1", None, held)
    scores = torch.cat([held.good, held.anomalous]).numpy()
    labels = np.repeat([0, 1], [200, 30])
    best = max(f1_score(labels, scores >= t) for t in scores)
    assert f1_score(labels, scores > found.image) == pytest.approx(best, abs=1e-12)
    assert found.image not in scores
    assert "200 good and 30 anomalous validation images" in found.basis
    assert found.pixel is None
    with pytest.raises(
        UsageError, match=r"200 good and 0 anomalous ones\. Add .*validation_anomalies true"
    ):
        choose("f1", None, calibration(bad=0))


def test_a_number_and_a_known_distribution():
    assert choose(0.25, None, Calibration.empty()).image == 0.25
    assert choose("chi2", 0.05, Calibration.empty(), lambda share: 150 * share).image == 7.5
    with pytest.raises(UsageError, match="for Mahalanobis AD alone"):
        choose("chi2", 0.05, calibration())


@pytest.mark.parametrize("method", [None, "conformal", "quantile", "f1", "chi2", 0.3])
@pytest.mark.parametrize("reject", [0, 5, -0.1])
def test_a_share_that_is_none_is_told_by_every_method(method, reject):
    with pytest.raises(UsageError, match="lies between 0 and 1"):
        choose(method, reject, calibration(), lambda share: 1.0)


def test_f1_is_the_best_where_that_calls_everything_anomalous():
    scores = [torch.tensor([5.0]), torch.tensor([5.0]), torch.tensor([1.0, 2.0, 3.0])]
    assert choose("f1", None, Calibration(*scores)).image < 1.0
    assert choose("f1", None, Calibration(torch.ones(2), torch.ones(2), torch.ones(2))).image < 1.0


def test_a_calibration_comes_back_from_its_state():
    again = Calibration(**calibration().state())
    assert torch.equal(again.maxima, calibration().maxima)
    assert len(again) == 200
