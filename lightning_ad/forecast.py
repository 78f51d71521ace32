"""What a fit will take, in memory and time, told before it begins."""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_ad.errors import UserError
from lightning_ad.evaluation import metrics

FEW, QUICK = 8, 0.02  # images that are measured together first; seconds an image below which a whole batch is
STARTING = 2.0  # seconds before the first image: Lightning's checks, checkpoints, what is made once
MARGIN = 1.2  # products in a method are of worse shapes than the one that is measured
WRITING = 3e-7  # seconds a pixel, for the map on disk and the metrics
COMPARED = 64  # to find the least of distances takes as long as so many channels of them, each further one too
SELECTED = 2.5  # times a product of all vectors with the centres takes a selection of these
METRIC_BYTES = 28  # a pixel of the test takes, where metrics are exact
BINS_BYTES = 2**27  # all of them take, where pixels are counted in bins


class Stage(NamedTuple):
    """A stage of a fit, or the test.

    Attributes:
        name: as the table shows it.
        held: bytes that are held at its peak, beside what the program takes anyway.
        images: that go through the network.
        operations: additions and multiplications beside the network, most of them in matrix products.
        writing: seconds an image for what is written of it.
    """

    name: str
    held: float
    images: int = 0
    operations: float = 0.0
    writing: float = 0.0


class Plan(NamedTuple):
    """What a run is to do, on each of its processes.

    Attributes:
        images: for training; tiles, where images come by tiles.
        tested: images (tiles) of the test.
        height: of what goes through the network.
        width: of it.
        world: processes.
        batch: images a step.
        epochs: of a method that learns.
    """

    images: int
    tested: int
    height: int
    width: int
    world: int = 1
    batch: int = 1
    epochs: int = 1


class Speed(NamedTuple):
    """Of this machine: seconds an image takes to be read, and in the network, and operations a second."""

    reading: float
    network: float
    operations: float


def evaluating(plan: Plan, held: float = 0.0, operations: float = 0.0) -> Stage:
    """The test of images whose scores take so many operations each, while `held` bytes are held."""
    return Stage("Testing", held, plan.tested, plan.tested * operations, WRITING * plan.height * plan.width)


def with_metrics(test: Stage, plan: Plan, memory_gb: float) -> Stage:
    """The test with what the metrics hold: of each pixel a score, a truth, and their order, sorted, on each process.

    Where pixels go into bins, those that came before.
    """
    pixels, limit = float(plan.tested * plan.height * plan.width * plan.world), memory_gb * 2**30
    exact = metrics.BYTES * pixels <= limit
    return test._replace(held=test.held + (METRIC_BYTES * pixels if exact else BINS_BYTES + limit / plan.world))


def scoring_again(test: Stage, plan: Plan, trimming: Sequence[Stage]) -> list[Stage]:
    """The training images scored by what they made, and, where some are trimmed, the fit once more."""
    operations = plan.images * test.operations / max(plan.tested, 1)
    scored = Stage("Scoring the training images", test.held, plan.images, operations)
    return [scored, *(stage._replace(name=f"{stage.name} again") for stage in trimming)]


def measure(
    describe: Callable[[Tensor], object],
    read: Callable[[str], object],
    file: str,
    height: int,
    width: int,
    batch: int,
    device: torch.device,
) -> Speed:
    """Measures the machine on made-up images; takes a second or two.

    Args:
        describe: what is made of [B, 3, height, width] before anything is kept.
        read: reads an image file, on one core.
        file: like those that will be read. It is not: only its header, for its size.
        height: of what `describe` takes.
        width: of what `describe` takes.
        batch: images that it will be given together: of small ones, many are quicker than few.
        device: on which `describe` works.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        images = torch.rand(FEW, 3, height, width, generator=generator).to(device)
        network = _seconds(lambda: describe(images), device) / FEW
        if network < QUICK and batch > FEW:
            images = torch.rand(batch, 3, height, width, generator=generator).to(device)
            network = _seconds(lambda: describe(images), device) / batch
        a, b = torch.rand(1024, 256, device=device), torch.rand(256, 512, device=device)
        product = _seconds(lambda: a @ b, device, repeats=20)
    return Speed(_reading(read, file), network, 2 * 1024 * 256 * 512 / product)


def _reading(read: Callable[[str], object], file: str) -> float:
    """Seconds that a made-up image takes to be read, of the size and the format of a file."""
    rng = np.random.default_rng(0)
    try:
        with Image.open(file) as image:
            (width, height), mode, kind = image.size, "L" if image.mode == "L" else "RGB", image.format
        coarse = Image.fromarray(rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "image").with_suffix(Path(file).suffix)
            coarse.resize((width, height)).convert(mode).save(path, format=kind)
            return _seconds(lambda: read(str(path)), torch.device("cpu"))
    except (OSError, ValueError, SyntaxError, KeyError, Image.DecompressionBombError, UserError):
        return 0.0  # what is wrong is told where the images are read


def seconds(stage: Stage, speed: Speed, workers: int, together: int) -> float:
    """Predicted duration of a stage.

    Args:
        stage: the stage.
        speed: of the machine.
        workers: processes that read images while the network works, where there are cores for them.
        together: images that threads read side by side where there are no workers.
    """
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    reading = speed.reading / min(workers or min(together, threads), cores)
    beside = workers > 0 and cores > threads
    image = max(speed.network, reading) if beside else speed.network + reading
    working = stage.images * (image + stage.writing) + MARGIN * stage.operations / speed.operations
    return working + STARTING * (stage.images > 0)


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


def table(stages: Sequence[Stage], speed: Speed, workers: int, together: int) -> str:
    """The forecast as lines of text: peak memory of this process and time, stage by stage (`seconds`)."""
    base = held_now()
    lines = [f"{'Forecast':<24}{'memory':>12}{'time':>12}"]
    for stage in stages:
        duration = seconds(stage, speed, workers, together)
        unit, size = next((u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if duration >= 2 * s or s == 1)
        shown = f"{duration / size:.{0 if unit == 's' else 1}f} {unit}"
        lines.append(f"{stage.name:<24}{(base + stage.held) / 2**30:>8.2f} GiB{shown:>12}")
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
