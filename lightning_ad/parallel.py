"""Work on images in parallel, each on one thread: as fast as many threads for each, and the same bits on any number."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
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


def each_alone(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What `work` makes of each item, each on one thread, as many at a time as there are threads.

    Gradients are recorded where they are outside, and inference mode holds inside too; autocasting does not.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    if len(items) == 1:
        with one_thread():
            return [work(items[0])]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def alone(item: Item) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return work(item)

    return list(_workers(threads).map(alone, items))


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads that stay, each of which runs what it is given on itself alone."""
    workers = ThreadPoolExecutor(threads, "image", torch.set_num_threads, (1,))
    # A thread starts with its first work, and the number it sets is also the one that later threads begin with.
    list(workers.map(lambda _: None, range(threads)))
    torch.set_num_threads(threads)
    return workers


if hasattr(os, "register_at_fork"):  # threads do not come along
    os.register_at_fork(after_in_child=_workers.cache_clear)
