"""The end of a run: the first process writes, the others wait, whether it succeeds or fails."""

from types import SimpleNamespace

import pytest
import torch.distributed as dist

from lightning_ad.cli import steps
from lightning_ad.errors import UserError


def broadcast(value):
    """What Lightning's strategies do."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def run_of(rank):
    recorder = SimpleNamespace(folder="the folder of the first process")
    strategy = SimpleNamespace(broadcast=broadcast)
    return SimpleNamespace(rank=rank, trainer=SimpleNamespace(strategy=strategy), recorder=recorder)


def ending(rank):
    """What `finish` returns or raises."""
    try:
        return steps.finish(run_of(rank), None)
    except UserError as error:
        return f"error: {error}"


@pytest.mark.distributed
def test_all_processes_get_the_folder(over_processes, monkeypatch):
    monkeypatch.setattr(steps, "summarise", lambda run, watch: None)
    assert over_processes(2, ending) == ["the folder of the first process"] * 2


@pytest.mark.distributed
def test_all_processes_fail_if_the_first_cannot_write(over_processes, monkeypatch):
    def summarise(run, watch):
        if run.rank == 0:
            raise UserError("the disk is full")

    monkeypatch.setattr(steps, "summarise", summarise)
    first, second = over_processes(2, ending)
    assert first == "error: the disk is full"
    assert second == "error: the results could not be written: the first process says why"
