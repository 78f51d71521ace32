"""Work on images in parallel, each on one thread: the same bits on any number of threads."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs what is inside on one thread of the CPU.

    Convolutions and matrix products round by the number of threads, and each of n processes on a
    machine has a share of its threads: what must be the same bits on any number of processes is
    computed in here.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def map_single_threaded(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Calls `work` for each item on one thread, for as many at a time as there are threads.

    That is as fast as many threads for each. Gradients, inference mode and autocasting on the CPU
    are inside what they are outside.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    if len(items) == 1:
        with one_thread():
            return [work(items[0])]
    inference = torch.is_inference_mode_enabled()
    gradients = torch.is_grad_enabled()
    casts = torch.is_autocast_enabled("cpu")
    cast_dtype = torch.get_autocast_dtype("cpu")

    def work_alone(item: Item) -> Result:
        autocast = torch.autocast("cpu", cast_dtype, casts)
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients), autocast:
            return work(item)

    return list(_workers(threads).map(work_alone, items))


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """Starts threads that stay, each of which runs its work on itself alone."""
    workers = ThreadPoolExecutor(threads, "image", _begin, (Barrier(threads),))
    list(workers.map(lambda _: None, range(threads)))
    # For later threads, which begin with the number that was set last.
    torch.set_num_threads(threads)
    return workers


def _begin(all_there: Barrier) -> None:
    torch.get_num_threads()  # otherwise the first parallel operation sets the common number again
    torch.set_num_threads(1)
    all_there.wait()  # a worker that is idle by now would be given the next one's first work


if hasattr(os, "register_at_fork"):  # threads are not copied
    os.register_at_fork(after_in_child=_workers.cache_clear)
