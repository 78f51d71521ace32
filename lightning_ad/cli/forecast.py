"""What a fit will take, in memory and time, told before it begins."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.errors import UserError
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.forecast import Plan, Stage, scoring_again, with_metrics
from lightning_ad.system.memory import available, held_now

FEW, QUICK = (
    8,
    0.02,
)  # images that are measured together first; seconds an image below which a whole batch is
STARTING = 2.0  # seconds before the first image: Lightning's checks, checkpoints, what is made once
MARGIN = 1.2  # products in a method are of worse shapes than the one that is measured


class Speed(NamedTuple):
    """Of this machine: seconds an image takes to be read, and in the network, and operations a second."""

    reading: float
    network: float
    operations: float


def measure(
    extract_features: Callable[[Tensor], object],
    read: Callable[[str], object],
    file: str,
    height: int,
    width: int,
    batch: int,
    device: torch.device,
) -> Speed:
    """Measures the machine on made-up images; takes a second or two.

    Args:
        extract_features: what is made of [B, 3, height, width] before anything is kept.
        read: reads an image file, on one core.
        file: like those that will be read. It is not: only its header, for its size.
        height: of what `extract_features` takes.
        width: of what `extract_features` takes.
        batch: images that it will be given together: of small ones, many are quicker than few.
        device: on which `extract_features` works.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        images = torch.rand(FEW, 3, height, width, generator=generator).to(device)
        network = _seconds(lambda: extract_features(images), device) / FEW
        if network < QUICK and batch > FEW:
            images = torch.rand(batch, 3, height, width, generator=generator).to(device)
            network = _seconds(lambda: extract_features(images), device) / batch
        a, b = torch.rand(1024, 256, device=device), torch.rand(256, 512, device=device)
        product = _seconds(lambda: a @ b, device, repeats=20)
    return Speed(_reading(read, file), network, 2 * 1024 * 256 * 512 / product)


def _reading(read: Callable[[str], object], file: str) -> float:
    """Seconds that a made-up image takes to be read, of the size and the format of a file."""
    rng = np.random.default_rng(0)
    try:
        with Image.open(file) as image:
            (width, height), mode, kind = (
                image.size,
                "L" if image.mode == "L" else "RGB",
                image.format,
            )
        coarse = Image.fromarray(
            rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
        )
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


def table(stages: Sequence[Stage], speed: Speed, workers: int, together: int) -> str:
    """The forecast as lines of text: peak memory of this process and time, stage by stage (`seconds`)."""
    base = held_now()
    lines = [f"{'Forecast':<24}{'memory':>12}{'time':>12}"]
    for stage in stages:
        duration = seconds(stage, speed, workers, together)
        unit, size = next(
            (u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if duration >= 2 * s or s == 1
        )
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


def announce(
    model: AnomalyModule, data: AnomalyDataModule, trainer: Trainer, resumed: bool
) -> None:
    """Prints what a run will take, before the first image is read, where the method knows; on the first process."""
    if not trainer.is_global_zero or resumed or type(model).stages is AnomalyModule.stages:
        return
    model.to(trainer.strategy.root_device)
    if isinstance(model, FitOnlyModule) and model.growing:
        before, new = model.images_before // model.tiles_per_image, len(data.samples["train"])
        print(f"{new} images are added to {before}")
    counts, world, tiles = (
        data.counts(),
        trainer.world_size,
        1 if data.tiles is None else len(data.tiles),
    )
    images, tested = (-(-counts[split] // world) * tiles for split in ("train", "test"))
    plan = Plan(
        images, tested, *data.input_size, world, data.batch_size, max(1, trainer.max_epochs or 1)
    )
    first = data.samples["train"][0].path
    device = trainer.strategy.root_device
    speed = measure(
        model.extract_features,
        data.training_set().read,
        first,
        *data.input_size,
        data.batch_size,
        device,
    )
    stages = _stages(model, plan)
    speed = speed._replace(
        reading=speed.reading / tiles
    )  # an image is read once for all of its tiles
    workers, together = (
        data.workers(device, model.synthesis is not None),
        data.batch_size if data.tiles is None else 1,
    )
    print(table(stages, speed, workers, together))
    wanted, there = max(stage.held for stage in stages), available()
    if there is not None and wanted > there:
        sizes = f"{wanted / 2**30:.1f} GiB more than now are wanted, and {there / 2**30:.1f} GiB can be had"
        rank_zero_warn(f"{sizes}; {_remedy(model, plan, there)}")


def _stages(model: AnomalyModule, plan: Plan) -> list[Stage]:
    *fit, test = model.stages(plan)
    if isinstance(model, FitOnlyModule) and (model.list_suspects or model.trim):
        fit += scoring_again(test, plan, fit if model.trim else [])
    return [*fit, with_metrics(test, plan, model.metrics.memory_gb)]


def _remedy(model: AnomalyModule, plan: Plan, there: int) -> str:
    """A setting under which a run fits into `there` bytes, as the forecast sees it."""
    before = getattr(model, "memory_bytes", None)
    if hasattr(model, "memory_bytes"):
        for share in (0.75, 0.5, 0.25, 0.1):
            model.memory_bytes = int(share * there)
            held = max(stage.held for stage in _stages(model, plan))
            model.memory_bytes = before
            if held <= there:
                return f"set model.memory_gb to {share * there / 2**30:.2g}"
    return "lower data.image_size, or --metrics_gb"
