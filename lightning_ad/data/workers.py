"""The processes that read images for a loader."""

import os
import signal

import torch
from torch.utils.data import get_worker_info

from lightning_ad.data.reading import limit_size
from lightning_ad.data.sample import Batch, collate
from lightning_ad.errors import UsageError
from lightning_ad.system.signals import STOP_SIGNALS

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

MOST_WORKERS = 8
OPEN_FILES = 64  # of a run without workers
OPEN_FILES_OF_A_WORKER = 32  # its pipes, and the tensors of the batches that it has read ahead


def worker_count(device: torch.device, draws: bool, tiled: bool) -> int:
    """Returns how many processes read images, if the user does not say (`data.num_workers`).

    Args:
        device: the device of the network. Beside one on the CPU, threads of its process read.
        draws: synthetic anomalies are drawn, which takes long.
        tiled: images are cut into tiles, which threads do not read.
    """
    if device.type != "cpu" or draws:
        return min(MOST_WORKERS, _cores())
    if tiled:
        return 1
    return 0


def collate_in_worker(items: list[Batch]) -> Batch:
    """Joins items; in a worker, puts the batch where the main process finds it.

    A thread behind the worker would do the latter too, but would lose the batch if there is no room
    for it, and the run would wait for it for ever.

    Raises:
        RuntimeError: if the memory that processes share is full.
    """
    batch = collate(items)
    if get_worker_info() is None:
        return batch
    return batch.share_memory()


def check_open_files(workers: int) -> None:
    """Raises the limit of open files to what workers need, as far as the system lets it.

    Raises:
        UsageError: if that is too few: a worker that cannot hand a batch over waits for ever.
    """
    if resource is None or not workers:
        return
    needed = OPEN_FILES + OPEN_FILES_OF_A_WORKER * workers
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _reaches(now, needed):
        return
    if not _reaches(most, needed):
        raise UsageError(
            f"a process may open {most} files here (ulimit -n), and {workers} workers need "
            f"{needed}: set data.num_workers to 0, or raise the limit"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))


def _reaches(limit: int, needed: int) -> bool:
    assert resource is not None
    return limit == resource.RLIM_INFINITY or limit >= needed


def begin_worker(megapixels: float, worker: int) -> None:
    """Limits the size of images in a worker, and leaves signals to the main process.

    Signals to a whole job must not end its workers before the main process has stopped.
    """
    limit_size(megapixels)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _cores() -> int:
    """Returns how many cores this process may use, as far as the system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
