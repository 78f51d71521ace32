"""Metrics by kind of defect and more, against outside references."""

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)
from slow_aupro import area_up_to

from lightning_ad.data.sample import Regions
from lightning_ad.errors import UsageError
from lightning_ad.evaluation import AnomalyMetrics, aupro, curve_of, saturated_weights, sensitivity
from lightning_ad.evaluation.curve import merge, ranked

KINDS = ["good", "crack", "hole"]
OF_IMAGES = [0, 0, 0, 1, 1, 2, 2, 2]


def scene():
    """Eight images of whole-number scores, so that there are ties, within and between kinds."""
    draw = np.random.default_rng(5)
    kind = np.array(OF_IMAGES)
    mask = (draw.random((8, 12, 10)) > 0.8) & (kind > 0)[:, None, None]
    map = draw.integers(0, 40, mask.shape).astype(np.float32) + 9 * mask
    return map, map.max((1, 2)), mask, (kind > 0).astype(np.int64), kind


def filled(memory_gb=4.0, sizes=(3, 4, 1), regions=None):
    metrics = AnomalyMetrics(memory_gb, KINDS)
    tensors = [torch.from_numpy(array).split(sizes) for array in scene()]
    parts = iter(regions or [])
    for map, score, mask, label, kind in zip(*tensors, strict=True):
        own = [next(parts) for _ in range(len(map))] if regions else ()
        if regions:
            mask = torch.stack(
                [
                    torch.zeros(12, 10, dtype=torch.bool) if r is None else r.masks.any(0)
                    for r in own
                ]
            )
        metrics.update(map, score, mask, label, kind, own)
    return metrics, metrics.compute()


@pytest.mark.parametrize("place", [1, 2])
def test_each_kind_of_defect_is_ranked_against_the_good_images(place):
    map, score, mask, label, kind = scene()
    got = filled()[0].details["by_defect"][KINDS[place]]
    rows = np.isin(kind, [0, place])
    assert got["image_AUROC"] == pytest.approx(roc_auc_score(label[rows], score[rows]), abs=1e-12)
    assert got["image_AP"] == pytest.approx(
        average_precision_score(label[rows], score[rows]), abs=1e-12
    )
    assert got["pixel_AUROC"] == pytest.approx(
        roc_auc_score(mask[rows].ravel(), map[rows].ravel()), abs=1e-12
    )
    expected = average_precision_score(mask[rows].ravel(), map[rows].ravel())
    assert got["pixel_AP"] == pytest.approx(expected, abs=1e-12)


def test_their_mean_and_anomalous_images_alone():
    map, _, mask, _, kind = scene()
    details = filled()[0].details
    for name, value in details["mean_over_defects"].items():
        assert value == pytest.approx(
            np.mean([of[name] for of in details["by_defect"].values()]), abs=1e-12
        )
    alone = roc_auc_score(mask[kind > 0].ravel(), map[kind > 0].ravel())
    assert details["anomalous_images_only"]["pixel_AUROC"] == pytest.approx(alone, abs=1e-12)
    assert "image_AUROC" not in details["anomalous_images_only"]


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.1, 0.37, 1.0])
def test_sensitivity_equals_scikit_learns_curve(rate):
    map, _, mask, _, _ = scene()
    fpr, tpr, _ = roc_curve(mask.ravel(), map.ravel(), drop_intermediate=False)
    curve = curve_of(torch.from_numpy(map).flatten(), torch.from_numpy(mask).float().flatten())
    assert sensitivity(curve, rate) == pytest.approx(tpr[fpr <= rate].max(), abs=1e-12)


def test_sensitivity_stands_in_the_details_and_refuses_what_is_no_rate():
    map, _, mask, _, _ = scene()
    curve = curve_of(torch.from_numpy(map).flatten(), torch.from_numpy(mask).float().flatten())
    assert filled()[0].details["sensitivity"]["pixel_sensitivity_0.05"] == sensitivity(curve, 0.05)
    with pytest.raises(UsageError, match=r"\[0, 1\], got 5"):
        sensitivity(curve, 5)


def test_groups_sorted_apart_give_the_curve_of_all():
    map, _, mask, _, kind = scene()
    parts = [
        ranked(*(torch.from_numpy(a[kind == k]).flatten().float() for a in (map, mask)))
        for k in range(3)
    ]
    whole = curve_of(*(torch.from_numpy(a).flatten().float() for a in (map, mask)))
    for got, expected in zip(merge(parts), whole, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert merge([]).thresholds.size == 0


def test_in_bins_the_details_are_close_and_of_all_kinds():
    exact, binned = filled()[0].details, filled(1e-9)[0]
    assert binned.bounds
    for kind, metrics in exact["by_defect"].items():
        assert binned.details["by_defect"][kind] == pytest.approx(
            metrics, abs=1e-9
        )  # whole numbers: a bin each
    assert binned.details["sensitivity"] == pytest.approx(exact["sensitivity"], abs=1e-9)


def overlapping_regions():
    """Of each anomalous image two rectangles, which overlap, with shares below and at 1."""
    found = []
    for place, kind in enumerate(OF_IMAGES):
        masks = torch.zeros(2, 12, 10, dtype=torch.bool)
        masks[0, 1:6, 1 : 4 + place % 3] = True
        masks[1, 4:9, 2:5] = True
        found.append(Regions(masks, torch.tensor([0.37, 1.0])) if kind else None)
    return found


def slow_spro(maps, regions, limit):
    """The definition: at each threshold, the mean over regions of min(pixels found / enough, 1)."""
    union = np.zeros(maps.shape, bool)
    of_all = []
    for place, own in enumerate(regions):
        if own is not None:
            union[place] = own.masks.any(0).numpy()
            for mask, share in zip(own.masks, own.shares, strict=True):
                of_all.append((maps[place], mask.numpy(), float(share) * int(mask.sum())))
    points = [(0.0, 0.0)]
    for t in sorted(set(maps.ravel().tolist()), reverse=True):
        overlap = np.mean([min((m[mask] >= t).sum() / enough, 1.0) for m, mask, enough in of_all])
        points.append(((maps[~union] >= t).mean(), overlap))
    return area_up_to(limit, points)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_saturated_overlap_equals_the_definition(limit):
    maps, regions = scene()[0], overlapping_regions()
    weights = [torch.zeros(12, 10) if r is None else saturated_weights(torch.from_numpy(m), r)
               for m, r in zip(maps, regions, strict=True)]  # fmt: skip
    curve = curve_of(torch.from_numpy(maps).flatten(), torch.stack(weights).flatten())
    assert aupro(curve, limit) == pytest.approx(slow_spro(maps, regions, limit), abs=1e-6)


@pytest.mark.parametrize("memory_gb", [4.0, 1e-9])
def test_saturated_overlap_of_each_kind_and_their_mean(memory_gb):
    maps, _, _, _, kind = scene()
    regions = overlapping_regions()
    by_defect = filled(memory_gb, regions=regions)[0].details["by_defect"]
    for place in (1, 2):
        rows = np.flatnonzero(np.isin(kind, [0, place]))
        expected = slow_spro(maps[rows], [regions[i] for i in rows], 0.05)
        assert by_defect[KINDS[place]]["pixel_AUsPRO_0.05"] == pytest.approx(expected, abs=1e-6)
    assert "pixel_AUsPRO_0.05" not in filled()[0].details["mean_over_defects"]


def test_saturation_by_hand():
    # Five pixels, two are enough: 9 and 7 weigh a half each; of two and a half, 5 weighs a fifth.
    map = torch.tensor([[9.0, 7.0, 5.0, 3.0, 1.0, 8.0]])
    mask = torch.tensor([[[True, True, True, True, True, False]]])
    two = saturated_weights(map, Regions(mask, torch.tensor([0.4])))
    assert two.tolist()[0] == pytest.approx([0.5, 0.5, 0, 0, 0, 0], abs=1e-6)
    half = saturated_weights(map, Regions(mask, torch.tensor([0.5])))
    assert half.tolist()[0] == pytest.approx([0.4, 0.4, 0.2, 0, 0, 0], abs=1e-6)
    assert (half > 0).tolist() == mask[0].tolist()
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        saturated_weights(map, Regions(mask, torch.tensor([0.0])))
    with pytest.raises(ValueError, match="do not fit"):
        saturated_weights(map[:, :5], Regions(mask, torch.tensor([1.0])))


def test_the_thresholds_of_the_best_f1_are_those_of_scikit_learn():
    draw = np.random.default_rng(3)
    map, mask = draw.normal(size=(6, 8, 8)).astype(np.float32), np.zeros((6, 8, 8), bool)
    mask[3:, :4] = True
    map += mask
    score = map.max((1, 2))
    metrics = AnomalyMetrics()
    metrics.update(*(torch.from_numpy(part) for part in (map, score, mask, mask.any((1, 2)))))
    metrics.compute()
    for truth, scores, name in (
        (mask.any((1, 2)), score, "oracle_threshold"),
        (mask, map, "oracle_pixel_threshold"),
    ):
        precision, recall, limits = precision_recall_curve(truth.ravel(), scores.ravel())
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1].argmax()
        assert metrics.details[name] == limits[best]
