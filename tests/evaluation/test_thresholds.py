"""Conformal p-values: the formula, the guarantee, and the errors."""

import pytest
import torch
from scipy.stats import chisquare

from lightning_ad.errors import UsageError, UserError
from lightning_ad.evaluation import conformal_p_values, conformal_threshold, images_needed


def test_counts_calibration_scores_at_or_above():
    p = conformal_p_values(torch.tensor([0.0, 2.0, 2.5, 9.0]), torch.tensor([3.0, 2.0, 1.0, 2.0]))
    assert p.tolist() == [1.0, 4 / 5, 2 / 5, 1 / 5]


def test_smallest_p_value_reaches_its_level():
    assert conformal_p_values(torch.tensor([9.0]), torch.zeros(19)).item() <= 0.05


def test_good_parts_are_rejected_as_rarely_as_promised():
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(2000, 50, generator=draw) ** 3 * 60
    rejected = [(conformal_p_values(row[:1], row[1:]) <= 0.1).item() for row in scores]
    assert (
        0.08 < sum(rejected) / len(rejected) <= 0.12
    )  # 0.1 is exact here; 3 standard deviations are 0.02


def test_bad_input_is_told():
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
    with pytest.raises(
        UsageError,
        match=f"takes the scores of {needed} held-out good images, and there are {needed - 1}",
    ):
        conformal_threshold(torch.arange(needed - 1.0), reject)


@pytest.mark.parametrize("reject", [0.01, 0.05, 0.1, 0.37])
@pytest.mark.parametrize("count", [99, 100, 257])
def test_the_threshold_is_where_the_p_values_say(reject, count):
    calibration = torch.randn(count).round(decimals=1)  # ties
    scores = torch.cat([calibration, calibration + 0.05, torch.tensor([-9.0, 9.0])])
    verdicts = scores > conformal_threshold(calibration, reject)
    assert torch.equal(verdicts, conformal_p_values(scores, calibration) <= reject + 1e-12)


def test_a_share_that_is_none():
    for share in (0.0, 1.0, -0.1, 5.0):
        with pytest.raises(UsageError, match="between 0 and 1"):
            images_needed(share)


def test_p_values_of_exchangeable_scores_are_uniform():
    scores = torch.randn(8000, 20, generator=torch.Generator().manual_seed(4)).exp()
    p = torch.cat([conformal_p_values(row[:1], row[1:]) for row in scores])
    counts = torch.bincount((p * 20).round().long(), minlength=21)[1:]
    assert chisquare(counts.numpy()).pvalue > 0.001
