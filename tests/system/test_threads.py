"""Work on one thread each: the same bits on any number of threads."""

import threading

import pytest
import torch
from scripts import PATIENCE

from lightning_ad.system.threads import map_single_threaded, one_thread


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_one_thread_for_a_while(threads):
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("count", [0, 1, 7])
def test_each_item_is_worked_on_by_one_thread_in_order(threads, count):
    found = map_single_threaded(lambda item: (item, torch.get_num_threads()), range(count))
    assert found == [(item, 1) for item in range(count)]
    assert torch.get_num_threads() == threads


def test_as_many_at_a_time_as_there_are_threads(threads):
    together = threading.Barrier(threads)
    map_single_threaded(lambda _: together.wait(PATIENCE), range(threads))  # or it breaks


def test_work_has_the_modes_of_its_caller(threads):
    def modes(_):
        return (
            torch.is_inference_mode_enabled(),
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
        )

    assert set(map_single_threaded(modes, range(5))) == {(False, True, False)}
    with torch.no_grad():
        assert set(map_single_threaded(modes, range(5))) == {(False, False, False)}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert set(map_single_threaded(modes, range(5))) == {(True, False, True)}


def test_an_error_of_the_work_is_raised(threads):
    with pytest.raises(ZeroDivisionError):
        map_single_threaded(lambda item: 1 // item, [1, 0, 1])


def test_work_may_map_again(threads):
    def total(_):
        return sum(map_single_threaded(lambda item: item, range(3)))

    assert map_single_threaded(total, range(8)) == [3] * 8
