"""What a fit will take, in memory and time, told before it begins."""

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

READING = 5e-3  # seconds that it takes to read and resize an image; they are not known before one is read
MARGIN = 1.2  # products in a method are of worse shapes than the one that is measured


class Stage(NamedTuple):
    """A stage of a fit, or the test.

    Attributes:
        name: as the table shows it.
        held: bytes that are held at its peak, beside what the program takes anyway.
        images: that go through the network.
        operations: additions and multiplications beside the network, most of them in matrix products.
        alone: the network runs on one thread, for the sake of equal bits.
    """

    name: str
    held: float
    images: int = 0
    operations: float = 0.0
    alone: bool = False


class Speed(NamedTuple):
    """Of this machine: seconds an image takes in the network, on one thread and on all, and operations a second."""

    alone: float
    together: float
    operations: float


def evaluating(tested: int, height: int, width: int, held: float = 0.0, operations: float = 0.0) -> Stage:
    """The test of images whose scores take so many operations each, while `held` bytes are held."""
    pixels = tested * height * width  # a score, a truth, and their order
    return Stage("Testing", held + 14 * pixels, tested, tested * operations)


def measure(describe: Callable[[Tensor], object], height: int, width: int, device: torch.device) -> Speed:
    """Measures the network on grey images and the machine on a matrix product; takes about a second."""
    image = torch.full((1, 3, height, width), 0.5, device=device)
    threads = torch.get_num_threads()
    with torch.inference_mode():
        torch.set_num_threads(1)
        alone = _seconds(lambda: describe(image), device)
        torch.set_num_threads(threads)
        together = _seconds(lambda: describe(image), device)
        a, b = torch.rand(1024, 256, device=device), torch.rand(256, 512, device=device)
        product = _seconds(lambda: a @ b, device, repeats=20)
    return Speed(alone, together, 2 * 1024 * 256 * 512 / product)


def seconds(stage: Stage, speed: Speed, workers: int) -> float:
    """Predicted duration of a stage; images are read while the network works, where there are cores for it."""
    cores = os.cpu_count() or 1
    network = speed.alone if stage.alone else speed.together
    reading = READING / max(1, min(workers, cores))
    spare = workers and cores > (1 if stage.alone else torch.get_num_threads())
    image = max(network, reading) if spare else network + reading
    return stage.images * image + MARGIN * stage.operations / speed.operations


def held_now() -> int:
    """Bytes of main memory that this process holds."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # not on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available() -> int | None:
    """Bytes of main memory that can still be had; None where the system does not tell."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def table(stages: Sequence[Stage], speed: Speed, workers: int) -> str:
    """The forecast as lines of text: peak memory of this process and time, stage by stage."""
    base = held_now()
    lines = [f"{'Forecast':<24}{'memory':>12}{'time':>10}"]
    for stage in stages:
        duration = seconds(stage, speed, workers)
        shown = f"{duration:.0f} s" if duration < 120 else f"{duration / 60:.1f} min"
        lines.append(f"{stage.name:<24}{(base + stage.held) / 2**30:>8.2f} GiB{shown:>10}")
    return "\n".join(lines)


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]
