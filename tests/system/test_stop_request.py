"""A signal to one process of a run stops all of them, by its name."""

import signal

import pytest
import torch

from lightning_ad.errors import Preempted
from lightning_ad.system.stop_request import StopRequest

CPU = torch.device("cpu")


def test_nothing_was_requested():
    assert not StopRequest().made_anywhere(CPU)


def test_the_first_signal_counts():
    request = StopRequest()
    request.make(signal.SIGTERM)
    request.make(signal.SIGINT)
    assert request.made_anywhere(CPU)
    with pytest.raises(Preempted, match="SIGTERM: stopped in the test") as stopped:
        request.stop("in the test")
    assert stopped.value.exit_code == 75


def stopped_by_the_last(rank):
    request = StopRequest()
    if rank == 2:
        request.make(signal.SIGUSR1)
    heard = request.made_anywhere(CPU)
    try:
        request.stop("here")
    except Preempted as error:
        return heard, str(error)


@pytest.mark.distributed
def test_all_processes_hear_of_the_signal_to_one(over_processes):
    assert over_processes(3, stopped_by_the_last) == [(True, "SIGUSR1: stopped here")] * 3
