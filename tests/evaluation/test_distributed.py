"""Two processes give the numbers of one, also when they see unlike shares, or nothing at all."""

import pytest
import torch

from lightning_ad.data.sample import Regions
from lightning_ad.evaluation import AUPRO, AUROC, METRIC_NAMES, AnomalyMetrics

KINDS = ["good", "crack", "hole"]
BATCHES = [2, 1, 3, 2, 1]  # nine images
SHARES = {"three and two batches": [[0, 2, 4], [1, 3]], "all and none": [[0, 1, 2, 3, 4], []]}


def batches():
    draw = torch.Generator().manual_seed(11)
    label = torch.arange(9) % 2
    mask = (torch.rand(9, 12, 12, generator=draw, dtype=torch.float32) > 0.8) & label.bool()[
        :, None, None
    ]
    map = torch.rand(9, 12, 12, generator=draw, dtype=torch.float32) * 60 + mask * 15
    score = torch.rand(9, generator=draw, dtype=torch.float32) * 60 + label * 15
    kind = label * (1 + torch.arange(9) % 3 // 2)  # good, crack, hole
    found = [
        Regions(one[None], torch.tensor([0.4], dtype=torch.float32)) if one.any() else None
        for one in mask
    ]
    regions = [found[sum(BATCHES[:i]) : sum(BATCHES[: i + 1])] for i in range(len(BATCHES))]
    tensors = [tensor.split(BATCHES) for tensor in (map, score, mask, label, kind)]
    return list(zip(*tensors, regions, strict=True))


def values(indices):
    metrics, auroc, aupro = AnomalyMetrics(kinds=KINDS), AUROC(), AUPRO()
    for index in indices:
        map, score, mask, label, *_ = batch = batches()[index]
        metrics.update(*batch)
        auroc.update(score, label)
        aupro.update(map, mask)
    found = {**metrics.compute(), "AUROC": auroc.compute().item(), "AUPRO": aupro.compute().item()}
    return {**found, **flat("details", metrics.details), **flat("intervals", metrics.intervals)}


def flat(name, value):
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(f"{name} {key}", part).items()}
    if isinstance(value, tuple):
        return {f"{name} {place}": part for place, part in enumerate(value)}
    return {name: value}


def binned(rank: int) -> tuple[dict, dict]:
    """The first process is over its budget, the second is not."""
    metrics = AnomalyMetrics(1e-6 if rank == 0 else 1.0, KINDS)
    for index in SHARES["three and two batches"][rank]:
        metrics.update(*batches()[index])
    values = metrics.compute()
    assert all(low <= values[name] <= high for name, (low, high) in metrics.bounds.items())
    details = dict(metrics.details)
    return metrics.bounds, flat("details", details.pop("bounds")), flat("details", details)


def at_the_limit(rank: int) -> bool:
    """Each process holds less than the budget, both together more."""
    metrics = AnomalyMetrics(9 * 12 * 12 * 16 / 2**30, KINDS)
    for index in SHARES["three and two batches"][rank]:
        metrics.update(*batches()[index])
    metrics.compute()
    return bool(metrics.bounds)


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")
def test_the_budget_is_for_the_pixels_of_all_processes(over_processes):
    assert over_processes(2, at_the_limit) == [True, True]
    alone = AnomalyMetrics(9 * 12 * 12 * 16 / 2**30, KINDS)
    for index in SHARES["three and two batches"][0]:
        alone.update(*batches()[index])
    alone.compute()
    assert not alone.bounds


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")
def test_pixels_are_binned_if_one_process_has_too_many(over_processes):
    found = over_processes(2, binned)
    exact = values(range(len(BATCHES)))
    assert found[0] == found[1]
    bounds, of_details, details = found[0]
    for name, (low, high) in bounds.items():
        assert low <= exact[name] <= high
    assert set(bounds) == {name for name in METRIC_NAMES if name.startswith("pixel")}
    known = {k: v for k, v in exact.items() if k.startswith("details") and "intervals" not in k}
    assert details == pytest.approx(known, abs=0.02)
    assert "details by_defect hole pixel_AUsPRO_0.05" in details
    for name in (name.removesuffix(" 0") for name in of_details if name.endswith(" 0")):
        assert of_details[f"{name} 0"] - 1e-9 <= exact[name] <= of_details[f"{name} 1"] + 1e-9
    assert {name.split()[1] for name in of_details} == {
        "by_defect",
        "anomalous_images_only",
        "sensitivity",
    }


def shares_of(rank: int) -> dict[str, dict[str, float]]:
    torch.set_default_dtype(torch.float64)  # as Lightning's precision "64-true" does
    return {name: values(shares[rank]) for name, shares in SHARES.items()}


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_two_processes_equal_one(over_processes):
    found = over_processes(2, shares_of)
    expected = values(range(len(BATCHES)))
    for got in found:
        for name in SHARES:
            assert got[name] == pytest.approx(expected, abs=1e-9), name
