"""Conformal p-values: the formula, the guarantee, and the errors."""

import pytest
import torch

from lightning_ad.errors import UsageError, UserError
from lightning_ad.evaluation import conformal_p_values


def test_counts_calibration_scores_at_or_above():
    p = conformal_p_values(torch.tensor([0.0, 2.0, 2.5, 9.0]), torch.tensor([3.0, 2.0, 1.0, 2.0]))
    assert p.tolist() == [1.0, 4 / 5, 2 / 5, 1 / 5]


def test_smallest_p_value_reaches_its_level():
    assert conformal_p_values(torch.tensor([9.0]), torch.zeros(19)).item() <= 0.05


def test_good_parts_are_rejected_as_rarely_as_promised():
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(2000, 50, generator=draw) ** 3 * 60
    rejected = [(conformal_p_values(row[:1], row[1:]) <= 0.1).item() for row in scores]
    assert 0.08 < sum(rejected) / len(rejected) <= 0.12  # 0.1 is exact here; 3 standard deviations are 0.02


def test_bad_input_is_told():
    with pytest.raises(UsageError, match="holdout"):
        conformal_p_values(torch.ones(3), torch.empty(0))
    with pytest.raises(UserError, match="1 of 2"):
        conformal_p_values(torch.ones(3), torch.tensor([1.0, float("nan")]))
    with pytest.raises(UserError, match="3 of 3"):
        conformal_p_values(torch.full((3,), float("nan")), torch.ones(2))


def test_no_scores_give_no_p_values():
    assert conformal_p_values(torch.empty(0), torch.ones(2)).shape == (0,)
