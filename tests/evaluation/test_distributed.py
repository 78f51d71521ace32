"""Two processes give the numbers of one, also when they see unlike shares, or nothing at all."""

import pytest
import torch

from lightning_ad.evaluation import AUPRO, AUROC, AnomalyMetrics

BATCHES = [2, 1, 3, 2, 1]  # nine images
SHARES = {"three and two batches": [[0, 2, 4], [1, 3]], "all and none": [[0, 1, 2, 3, 4], []]}


def batches():
    draw = torch.Generator().manual_seed(11)
    label = torch.arange(9) % 2
    mask = (torch.rand(9, 12, 12, generator=draw, dtype=torch.float32) > 0.8) & label.bool()[:, None, None]
    map = torch.rand(9, 12, 12, generator=draw, dtype=torch.float32) * 60 + mask * 15
    score = torch.rand(9, generator=draw, dtype=torch.float32) * 60 + label * 15
    return list(zip(*(tensor.split(BATCHES) for tensor in (map, score, mask, label)), strict=True))


def values(indices):
    metrics, auroc, aupro = AnomalyMetrics(), AUROC(), AUPRO()
    for index in indices:
        map, score, mask, label = batches()[index]
        metrics.update(map, score, mask, label)
        auroc.update(score, label)
        aupro.update(map, mask)
    return {**metrics.compute(), "AUROC": auroc.compute().item(), "AUPRO": aupro.compute().item()}


def binned(rank: int) -> dict[str, tuple[float, float]]:
    """The first process is over its budget, the second is not."""
    metrics = AnomalyMetrics(memory_gb=1e-6 if rank == 0 else 1.0)
    for index in SHARES["three and two batches"][rank]:
        metrics.update(*batches()[index])
    values = metrics.compute()
    assert all(low <= values[name] <= high for name, (low, high) in metrics.bounds.items())
    return metrics.bounds


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")
def test_pixels_are_binned_where_one_process_has_too_many(over_processes):
    found = over_processes(2, binned)
    exact = values(range(len(BATCHES)))
    assert found[0] == found[1]
    for name, (low, high) in found[0].items():
        assert low <= exact[name] <= high
    assert len(found[0]) == 5


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
