"""Ignored pixels count for no metric: as though they had never been there."""

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from slow_aupro import slow_aupro

from lightning_ad.data.sample import Regions
from lightning_ad.evaluation import AnomalyMetrics


@pytest.fixture
def scene():
    """Six images, three anomalous. The highest and the lowest scores lie in what is ignored.

    A strip of all images is ignored, some of the second defect, and all of the last one.
    """
    draw = torch.Generator().manual_seed(5)
    mask = torch.zeros(6, 20, 20, dtype=torch.bool)
    ignore = torch.zeros(6, 20, 20, dtype=torch.bool)
    mask[3, 4:9, 4:12] = mask[3, 15, 15] = mask[4, 2:12, 8:14] = mask[5, 10:14, 10:14] = True
    ignore[:, :, :3] = ignore[4, 5:20, :11] = ignore[5, 9:16, 9:16] = True
    map = torch.rand(6, 20, 20, generator=draw) + mask * torch.rand(6, 20, 20, generator=draw)
    map[ignore] = map[ignore] * 40 - 20
    return map, torch.rand(6, generator=draw), mask, torch.tensor([0, 0, 0, 1, 1, 1]), ignore


def computed(scene, sizes=(1, 3, 2), **options):
    metrics = AnomalyMetrics(**options)
    for map, score, mask, label, ignore in zip(*(t.split(sizes) for t in scene), strict=True):
        metrics.update(map, score, mask, label, ignore=ignore)
    return metrics, metrics.compute()


def test_pixel_metrics_equal_outside_references_on_the_rest(scene):
    map, _, mask, _, ignore = (t.numpy() for t in scene)
    kept = ~ignore
    kept[5] = False  # its whole defect is ignored: it has no pixel truth
    metrics, found = computed(scene)
    assert found["pixel_AUROC"] == pytest.approx(roc_auc_score(mask[kept], map[kept]), abs=1e-6)
    assert found["pixel_AP"] == pytest.approx(
        average_precision_score(mask[kept], map[kept]), abs=1e-6
    )
    assert found["pixel_AUPRO_0.30"] == pytest.approx(slow_aupro(map, mask, 0.3, kept), abs=1e-6)
    assert (
        metrics.intervals["pixel_AUROC"][0]
        <= found["pixel_AUROC"]
        <= metrics.intervals["pixel_AUROC"][1]
    )


def test_image_metrics_keep_all_images(scene):
    score, label = scene[1].numpy(), scene[3].numpy()
    assert computed(scene)[1]["image_AUROC"] == pytest.approx(roc_auc_score(label, score), abs=1e-6)


def test_what_ignored_pixels_score_changes_nothing(scene):
    map, *rest, ignore = scene
    other = torch.where(ignore, torch.full_like(map, 1e6), map)
    assert computed(scene)[1] == computed((other, *rest, ignore))[1]


def test_nothing_ignored_is_the_same_as_none(scene):
    map, score, mask, label, ignore = scene
    plain = AnomalyMetrics()
    plain.update(map, score, mask, label)
    assert computed((map, score, mask, label, torch.zeros_like(ignore)))[1] == plain.compute()


def test_the_exact_metrics_lie_within_the_bounds_of_bins(scene):
    exact = computed(scene)[1]
    metrics, _ = computed(scene, memory_gb=1e-6)
    assert metrics.bounds
    for name, (low, high) in metrics.bounds.items():
        assert low - 1e-9 <= exact[name] <= high + 1e-9, name


def test_an_image_that_is_ignored_everywhere_counts_as_an_image_alone(scene):
    map, score, mask, label, ignore = scene
    ignore = ignore.clone()
    ignore[0] = True
    without = tuple(t[1:] for t in (map, score, mask, label, ignore))
    found, other = computed((map, score, mask, label, ignore))[1], computed(without, (3, 2))[1]
    assert {k: v for k, v in found.items() if k.startswith("pixel")} == {
        k: v for k, v in other.items() if k.startswith("pixel")
    }


def test_saturated_overlap_leaves_them_out(scene):
    """A region of which half is ignored, and of which the rest must be found in full, by hand."""
    region = torch.zeros(1, 4, 4, dtype=torch.bool)
    region[0, 0] = True
    ignore = torch.zeros(2, 4, 4, dtype=torch.bool)
    ignore[1, 0, :2] = True
    map = torch.zeros(2, 4, 4)
    map[1, 0] = torch.tensor([0.0, 0.0, 5.0, 5.0])  # all of what counts is above every good pixel
    mask = torch.stack([torch.zeros(4, 4, dtype=torch.bool), region[0]])
    regions = [None, Regions(region & ~ignore[1], torch.tensor([1.0]))]
    label, score = torch.tensor([0, 1]), torch.tensor([0.0, 1.0])

    def saturated(ignore):
        metrics = AnomalyMetrics()
        metrics.update(map, score, mask, label, None, regions, ignore)
        metrics.compute()
        return metrics.details["by_defect"]["anomalous"]["pixel_AUsPRO_0.05"]

    assert saturated(ignore) == 1
    map[1, 0, 3] = -1.0  # below all good pixels: half of the rest is found
    assert saturated(ignore) == 0.5
