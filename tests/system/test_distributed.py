"""Rows that are exchanged by processes of which one has none, and by one process."""

import pytest
import torch

from lightning_ad.system.distributed import (
    broadcast,
    gather_rows,
    process_rank,
    sum_over_processes,
    take_rows,
    world_size,
)

CPU = torch.device("cpu")
ROWS = torch.arange(14.0).view(7, 2)
SHARES = [torch.tensor([6, 0, 3, 5, 1]), torch.tensor([], dtype=torch.int64), torch.tensor([2, 4])]
WANTED = torch.tensor([4, 6, 2, 0])


def exchange(rank):
    own = SHARES[rank]
    value = ROWS[1:3] if rank == 0 else None
    return {
        "places": (world_size(), process_rank()),
        "gathered": gather_rows(ROWS[own]),
        "sum": sum_over_processes(len(own), CPU),
        "taken": take_rows(ROWS[own], own, WANTED, CPU),
        "broadcast": broadcast(value, CPU),
    }


@pytest.mark.distributed
def test_three_processes_exchange_rows(over_processes):
    for rank, found in enumerate(over_processes(3, exchange)):
        assert found["places"] == (3, rank)
        assert torch.equal(found["gathered"], ROWS[torch.cat(SHARES)])
        assert found["sum"] == 7
        assert torch.equal(found["taken"], ROWS[WANTED])
        assert torch.equal(found["broadcast"], ROWS[1:3])


def test_one_process_keeps_its_rows():
    assert (world_size(), process_rank()) == (1, 0)
    assert gather_rows(ROWS) is ROWS
    assert sum_over_processes(7, CPU) == 7
    order = torch.tensor([6, 2, 0, 1, 5, 3, 4])
    assert torch.equal(take_rows(ROWS[order], order, WANTED, CPU), ROWS[WANTED])
    assert torch.equal(broadcast(ROWS, CPU), ROWS)
