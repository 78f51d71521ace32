"""Conformal p-values and thresholds, and how a run's threshold is chosen, by outside references."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from sklearn.metrics import f1_score

from lightning_ad.errors import UsageError, UserError
from lightning_ad.evaluation import conformal_p_values, conformal_threshold, images_needed
from lightning_ad.evaluation.thresholds import Calibration, check_requirements, choose


def calibration(good=200, anomalous=30):
    draw = torch.Generator().manual_seed(1)
    scores = [torch.randn(n, generator=draw).sort().values for n in (good, good, anomalous)]
    return Calibration(scores[0], scores[1] + 3, scores[2] + 2)


def test_p_values_count_calibration_scores_at_or_above():
    p = conformal_p_values(torch.tensor([0.0, 2.0, 2.5, 9.0]), torch.tensor([3.0, 2.0, 1.0, 2.0]))
    assert p.tolist() == [1.0, 4 / 5, 2 / 5, 1 / 5]


def test_the_smallest_p_value_reaches_its_level():
    assert conformal_p_values(torch.tensor([9.0]), torch.zeros(19)).item() <= 0.05


def test_good_parts_are_rejected_as_rarely_as_promised():
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(2000, 50, generator=draw) ** 3 * 60
    rejected = [(conformal_p_values(row[:1], row[1:]) <= 0.1).item() for row in scores]
    # 0.1 is exact here; 3 standard deviations are 0.02
    assert 0.08 < sum(rejected) / len(rejected) <= 0.12


def test_p_values_of_exchangeable_scores_are_uniform():
    scores = torch.randn(8000, 20, generator=torch.Generator().manual_seed(4)).exp()
    p = torch.cat([conformal_p_values(row[:1], row[1:]) for row in scores])
    counts = torch.bincount((p * 20).round().long(), minlength=21)[1:]
    assert chisquare(counts.numpy()).pvalue > 0.001


def test_p_values_refuse_bad_scores():
    with pytest.raises(UsageError, match="holdout"):
        conformal_p_values(torch.ones(3), torch.empty(0))
    with pytest.raises(UserError, match="1 of 2"):
        conformal_p_values(torch.ones(3), torch.tensor([1.0, float("nan")]))
    with pytest.raises(UserError, match="3 of 3"):
        conformal_p_values(torch.full((3,), float("nan")), torch.ones(2))


def test_no_scores_give_no_p_values():
    assert conformal_p_values(torch.empty(0), torch.ones(2)).shape == (0,)


@pytest.mark.parametrize(
    ("reject", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1), (0.03, 33), (0.001, 999)]
)
def test_the_fewest_images_for_a_share(reject, needed):
    assert images_needed(reject) == needed
    assert 1 / (needed + 1) <= reject < 1 / needed
    assert conformal_threshold(torch.arange(float(needed)), reject) == needed - 1
    too_few = f"takes the scores of {needed} held-out good images, and there are {needed - 1}"
    with pytest.raises(UsageError, match=too_few):
        conformal_threshold(torch.arange(needed - 1.0), reject)


@pytest.mark.parametrize("reject", [0.01, 0.05, 0.1, 0.37])
@pytest.mark.parametrize("count", [99, 100, 257])
def test_the_conformal_threshold_agrees_with_the_p_values(reject, count):
    held_out = torch.randn(count).round(decimals=1)  # ties
    scores = torch.cat([held_out, held_out + 0.05, torch.tensor([-9.0, 9.0])])
    verdicts = scores > conformal_threshold(held_out, reject)
    assert torch.equal(verdicts, conformal_p_values(scores, held_out) <= reject + 1e-12)


def test_a_share_outside_0_and_1_is_refused():
    for share in (0.0, 1.0, -0.1, 5.0):
        with pytest.raises(UsageError, match=f"between 0 and 1.*got {share:g}"):
            images_needed(share)


def test_conformal_is_the_default_if_there_are_enough_images():
    held_out = calibration()
    found = choose(None, None, held_out)
    assert found.method == "conformal"
    assert found.image == held_out.good[-2].item()  # 201 * 1 %: 2, one of them new
    assert found.pixel == held_out.maxima[-2].item()
    assert "at most 1 % of good parts, on average, by 200" in found.basis
    assert choose(None, None, calibration(98)) is None
    assert choose(None, 0.1, calibration(9)).image == calibration(9).good[-1].item()
    with pytest.raises(UsageError, match="takes the scores of 99 held-out good images"):
        choose("conformal", None, calibration(98))


def test_the_quantile_is_numpys():
    held_out = calibration()
    found = choose("quantile", 0.07, held_out)
    expected = np.quantile([held_out.good.double(), held_out.maxima.double()], 0.93, axis=1)
    assert (found.image, found.pixel) == pytest.approx(expected, abs=1e-9)
    with pytest.raises(UsageError, match="--threshold quantile needs held-out"):
        choose("quantile", None, Calibration.empty())


def test_f1_is_the_best_on_validation_images():
    held_out = calibration()
    found = choose("f1", None, held_out)
    scores = torch.cat([held_out.good, held_out.anomalous]).numpy()
    labels = np.repeat([0, 1], [200, 30])
    best = max(f1_score(labels, scores >= t) for t in scores)
    assert f1_score(labels, scores > found.image) == pytest.approx(best, abs=1e-12)
    assert found.image not in scores
    assert "200 good and 30 anomalous validation images" in found.basis
    assert found.pixel is None
    no_anomalies = r"200 good and 0 anomalous ones\. Add .*validation_anomalies true"
    with pytest.raises(UsageError, match=no_anomalies):
        choose("f1", None, calibration(anomalous=0))


def test_f1_is_the_best_if_that_calls_everything_anomalous():
    scores = [torch.tensor([5.0]), torch.tensor([5.0]), torch.tensor([1.0, 2.0, 3.0])]
    assert choose("f1", None, Calibration(*scores)).image < 1.0
    assert choose("f1", None, Calibration(torch.ones(2), torch.ones(2), torch.ones(2))).image < 1.0


def test_a_number_and_a_known_distribution():
    assert choose(0.25, None, Calibration.empty()).image == 0.25
    assert choose("chi2", 0.05, Calibration.empty(), lambda share: 150 * share).image == 7.5
    with pytest.raises(UsageError, match="for Mahalanobis AD alone"):
        choose("chi2", 0.05, calibration())


def test_a_known_distribution_is_asked_once_and_only_if_it_decides():
    asked = []

    def chi_square(share):
        asked.append(share)
        return 7.0

    choose("quantile", 0.05, calibration(), chi_square)
    with pytest.raises(UsageError, match="lies between 0 and 1"):
        choose("chi2", 5, calibration(), chi_square)
    assert not asked
    choose("chi2", 0.05, calibration(), chi_square)
    assert asked == [0.05]


@pytest.mark.parametrize("method", [None, "conformal", "quantile", "f1", "chi2", 0.3])
@pytest.mark.parametrize("reject", [0, 5, -0.1])
def test_every_method_refuses_a_share_outside_0_and_1(method, reject):
    with pytest.raises(UsageError, match="lies between 0 and 1"):
        choose(method, reject, calibration(), lambda share: 1.0)


def outcome(function, *args):
    """What a choice comes to: its method, or the message of its error."""
    try:
        found = function(*args)
    except UsageError as error:
        return str(error)
    return getattr(found, "method", found)


@pytest.mark.parametrize("method", [None, "conformal", "quantile", "f1", "chi2", 0.3, 2])
@pytest.mark.parametrize("reject", [None, 0.05, 0.4, 5])
def test_what_can_be_chosen_is_known_from_numbers_of_images(method, reject):
    outcomes = set()
    for good, anomalous in ((0, 0), (1, 0), (19, 0), (98, 5), (99, 1)):
        for known in (True, False):
            held_out = calibration(good, anomalous)

            def chi_square(share, known=known):
                return 7.0 if known else None

            expected = outcome(choose, method, reject, held_out, chi_square)
            found = outcome(check_requirements, method, reject, good, anomalous, known)
            assert found == expected
            outcomes.add(found)
    if reject != 5 and isinstance(method, str):
        assert method in outcomes
        assert len(outcomes) > 1


def test_a_calibration_comes_back_from_its_state():
    again = Calibration(**calibration().state())
    assert torch.equal(again.maxima, calibration().maxima)
    assert len(again) == 200
