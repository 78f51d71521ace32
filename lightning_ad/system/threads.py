"""Work on images in parallel, each on one thread: as fast as many threads for each, and the same bits on any number."""

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
    """Runs what is inside on one thread of the CPU: convolutions and matrix products round by the number of threads.

    Each of n processes on a machine has a share of its threads, so what must be the same bits on any number of
    processes comes through here.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def map_single_threaded(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What `work` makes of each item, each on one thread, as many at a time as there are threads.

    Gradients, inference mode and autocasting on the CPU are inside what they are outside.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    if len(items) == 1:
        with one_thread():
            return [work(items[0])]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    casting, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def alone(item: Item) -> Result:
        casts = torch.autocast("cpu", dtype, casting)
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients), casts:
            return work(item)

    return list(_workers(threads).map(alone, items))


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads that stay, each of which runs what it is given on itself alone."""
    workers = ThreadPoolExecutor(threads, "image", _begin, (Barrier(threads),))
    list(workers.map(lambda _: None, range(threads)))
    torch.set_num_threads(
        threads
    )  # for later threads, which begin with the number that was set last
    return workers


def _begin(all_there: Barrier) -> None:
    torch.get_num_threads()  # otherwise the first parallel operation sets the common number again
    torch.set_num_threads(1)
    all_there.wait()  # a worker that were idle by now would be given the next one's first work


if hasattr(os, "register_at_fork"):  # threads do not come along
    os.register_at_fork(after_in_child=_workers.cache_clear)
