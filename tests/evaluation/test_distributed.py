"""Two processes give the numbers of one, also when they see unlike shares, or nothing at all."""

import json
import multiprocessing
from pathlib import Path

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


def process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)  # a forked child must not wait for the parent's OpenMP threads
    torch.set_default_dtype(torch.float64)  # as Lightning's precision "64-true" does
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    got = {name: values(shares[rank]) for name, shares in SHARES.items()}
    (folder / f"{rank}.json").write_text(json.dumps(got))
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_two_processes_equal_one(tmp_path):
    # Forked: importing torch and torchmetrics twice more would take longer than all tests here together.
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=process, args=(rank, tmp_path), daemon=True) for rank in range(2)]
    for child in children:
        child.start()
    try:
        for child in children:
            child.join(timeout=60)
        assert [child.exitcode for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
    expected = values(range(len(BATCHES)))
    for rank in range(2):
        got = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in SHARES:
            assert got[name] == pytest.approx(expected, abs=1e-9), name
