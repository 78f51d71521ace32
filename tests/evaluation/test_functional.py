"""The curves against scikit-learn, and AUPRO against a plain loop over all thresholds."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from slow_aupro import slow_aupro

from lightning_ad.errors import UsageError, UserError
from lightning_ad.evaluation import (
    aupro,
    auroc,
    average_precision,
    curve_of,
    f1_max,
    precision_recall,
    pro,
    region_weights,
    roc,
    thin,
)

CASES = ["smooth", "ties", "negative", "constant", "one positive pixel", "infinite"]


def scene(case, images=5, size=24):
    """Maps and masks: two images without a defect, three with defects of unlike sizes."""
    draw = np.random.default_rng(7)
    masks = np.zeros((images, size, size), dtype=bool)
    if case == "one positive pixel":
        masks[2, 3, 4] = True
    else:
        masks[1, 2:4, 2:4] = masks[1, 4, 4] = True  # joined at a corner: one region
        masks[1, 10:20, 8:21] = True
        masks[3, 0, 0] = masks[3, 23, 23] = True
        masks[4, 23, 5:9] = True  # touches the edge where the next image would begin
    maps = draw.uniform(0, 60, masks.shape) + masks * draw.uniform(0, 40, masks.shape)
    if case == "ties":
        maps = np.round(maps / 15)
    if case == "negative":
        maps = -maps
    if case == "constant":
        maps = np.full_like(maps, 3.7)
    if case == "infinite":
        maps[maps > 80] = np.inf
        maps[maps < 2] = -np.inf
    return maps.astype(np.float32), masks


def pixel_curve(maps, masks):
    return curve_of(
        torch.from_numpy(maps).flatten(), region_weights(torch.from_numpy(masks)).flatten()
    )


@pytest.mark.parametrize("case", CASES)
def test_equals_scikit_learn(case):
    maps, masks = scene(case)
    curve = pixel_curve(maps, masks)
    score, truth = np.clip(maps.ravel(), -1e9, 1e9), masks.ravel()
    precision, recall, thresholds = precision_recall_curve(truth, score)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1]
    best, threshold = f1_max(curve)
    assert auroc(curve) == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert average_precision(curve) == pytest.approx(
        average_precision_score(truth, score), abs=1e-12
    )
    assert best == pytest.approx(f1.max(), abs=1e-12)
    assert threshold == pytest.approx(
        thresholds[np.flatnonzero(f1 >= f1.max() - 1e-12)[-1]], rel=1e-6
    )


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_aupro_equals_the_definition(case, limit):
    maps, masks = scene(case)
    assert aupro(pixel_curve(maps, masks), limit) == pytest.approx(
        slow_aupro(maps, masks, limit), abs=1e-6
    )


def test_aupro_by_hand():
    # Regions {9, 1} and {5}; good 7, 4, 3, 2.
    # The curve: (0, 1/4), (1/4, 1/4), (1/4, 3/4), (1, 3/4), (1, 1).
    maps = torch.tensor([[[9.0, 1.0, 7.0, 4.0, 3.0, 2.0, 5.0]]])
    masks = torch.tensor([[[True, True, False, False, False, False, True]]])
    curve = curve_of(maps.flatten(), region_weights(masks).flatten())
    assert aupro(curve, 0.2) == pytest.approx(0.25)
    assert aupro(curve, 0.5) == pytest.approx((0.25 * 0.25 + 0.25 * 0.75) / 0.5)
    assert aupro(curve, 1.0) == pytest.approx(0.25 * 0.25 + 0.75 * 0.75)


def test_aupro_interpolates_at_the_limit():
    # One tie of all pixels: a straight line from (0, 0) to (1, 1).
    curve = curve_of(torch.ones(10), torch.tensor([1.0] + [0.0] * 9))
    assert aupro(curve, 0.3) == pytest.approx(0.15)
    assert aupro(curve, 0.05) == pytest.approx(0.025)


def test_every_region_counts_alike():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :4] = mask[0, 7, 7] = True
    found = torch.zeros(1, 8, 8)
    found[0, :4] = 1.0  # the large region is found, the small one missed
    curve = curve_of(found.flatten(), region_weights(mask).flatten())
    _, overlap = pro(curve)
    assert overlap.tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_curve_counts_ties_once_and_skips_points_that_change_nothing():
    scores = torch.tensor([5.0, 5.0, 5.0, 8.0, 1.0, 0.0, 7.0, 6.0])
    curve = curve_of(scores, torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0]))
    assert curve.thresholds.tolist() == [8.0, 6.0, 5.0, 0.0]
    assert curve.true_positives.tolist() == [1, 1, 3, 3]
    assert curve.false_positives.tolist() == [0, 2, 3, 5]
    assert curve.overlap.tolist() == [1.0, 1.0, 2.5, 2.5]
    assert auroc(curve) == pytest.approx(
        (5 + 2 * 2.5) / 15
    )  # of 15 pairs, 5 + 2 * 2 right and 2 tied


def test_order_does_not_matter_to_the_last_bit():
    maps, masks = scene("ties")
    scores, weights = (
        torch.from_numpy(maps).flatten(),
        region_weights(torch.from_numpy(masks)).flatten(),
    )
    shuffled = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    one, other = curve_of(scores, weights), curve_of(scores[shuffled], weights[shuffled])
    assert all((a == b).all() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, 1.0]])
def test_undefined_is_nan(weights):
    curve = curve_of(torch.arange(len(weights)).float(), torch.tensor(weights))
    values = [auroc(curve), average_precision(curve), *f1_max(curve), aupro(curve, 0.3)]
    assert all(math.isnan(value) for value in values)
    assert all(thin(*plot(curve))[0].size == 0 for plot in (roc, precision_recall, pro))


def test_bad_input_is_refused():
    nan = torch.tensor([1.0, float("nan"), float("nan")])
    with pytest.raises(UserError, match="2 of 3 are NaN"):
        curve_of(nan, torch.ones(3))
    with pytest.raises(ValueError, match="weight"):
        curve_of(torch.ones(3), torch.ones(2))
    with pytest.raises(UsageError, match="30"):
        aupro(curve_of(torch.ones(2), torch.tensor([0.0, 1.0])), 30)


def test_plots_end_where_they_must():
    curve = pixel_curve(*scene("smooth"))
    for x, y in (roc(curve), pro(curve)):
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    recall, precision = precision_recall(curve)
    assert (recall[0], precision[0], recall[-1]) == (0, 1, 1)


def test_thin_keeps_the_shape():
    x = np.concatenate([np.zeros(5000), np.linspace(0, 1, 20000)])
    y = np.concatenate([np.linspace(0, 0.8, 5000), 0.8 + 0.2 * np.linspace(0, 1, 20000) ** 2])
    few_x, few_y = thin(x, y)
    assert 250 < few_x.size <= 300
    assert (few_x[0], few_y[0], few_x[-1], few_y[-1]) == (x[0], y[0], x[-1], y[-1])
    nearest = np.hypot(x[:, None] - few_x, y[:, None] - few_y).min(axis=1)
    assert nearest.max() < 0.01
    assert thin(x[:7], y[:7])[0].size == 7
