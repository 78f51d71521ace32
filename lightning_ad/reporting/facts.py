"""What is told of a run beside its metrics."""

import platform
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.reporting.provenance import versions
from lightning_ad.reporting.recorder import TestRecorder
from lightning_ad.system.cost import Stopwatch
from lightning_ad.system.run_folder import RunFolder


class Run(Protocol):
    """What a summary is made of."""

    trainer: Trainer
    model: AnomalyModule
    datamodule: AnomalyDataModule
    recorder: TestRecorder
    folder: RunFolder
    config_text: str
    checkpoint: Path
    dashboard_images: int
    revision: str | None
    training_set: str | None


def report_facts(run: Run, watch: Stopwatch) -> dict[str, str]:
    """What a report lists of a run."""
    number = counts(run)
    seconds: dict[str, Any] = {
        f"seconds of {name}": f"{value:.1f}" for name, value in watch.seconds.items()
    }
    return {
        "method": type(run.model).__name__,
        "data set": f"{run.datamodule.title} in {run.datamodule.root}",
        "training images": str(number["train"]),
        "test images": f"{number['test_good']} good, {number['test_anomalous']} anomalous",
        **(
            {"left out": f"{number['skipped']} images that cannot be used (skipped.csv)"}
            if number["skipped"]
            else {}
        ),
        **(
            {"threshold": f"{limit.image:.6g}: {limit.basis}"}
            if (limit := run.recorder.threshold)
            else {}
        ),
        **({"pixel metrics": _bounds(run)} if run.model.metrics.bounds else {}),
        "image size": "{} x {} px (height x width)".format(*run.datamodule.geometry.output),
        **seconds,
        "peak memory": ", ".join(f"{value:.2f} GiB ({name})" for name, value in watch.peak.items()),
        "device": device_name(run.trainer),
        "versions": ", ".join(f"{name} {value}" for name, value in versions().items()),
    }


def _bounds(run: Run) -> str:
    bounds = run.model.metrics.bounds.items()
    return "counted in bins; the exact ones lie in " + ", ".join(
        f"{k} {low:.4f} to {up:.4f}" for k, (low, up) in bounds
    )


def counts(run: Run) -> dict[str, int]:
    """Of the data; the training images are those that the model has learned from."""
    blank = len(small_defects(run))
    return {
        **run.datamodule.counts(),
        "train": run.model.trained_images,
        "test_without_outline": blank,
    }


def small_defects(run: Run) -> list[str]:
    """Test images with a mask of which nothing is left at the size of the network's images."""
    masked = {s.path for s in run.datamodule.samples["test"] if s.mask_path is not None}
    return [path for path in run.recorder.without_outline if path in masked]


def facts_of(
    model: AnomalyModule, data: AnomalyDataModule, revision: str | None, training_set: str | None
) -> dict[str, str]:
    """What a dashboard lists of a run before it begins: method, data and their view, versions, revision."""
    told = {
        "method": type(model).__name__,
        "data": data.title,
        "view": data.view,
        "revision": revision or "unknown",
    }
    told["training_set"] = training_set or "unknown"
    return {**told, **{f"version_{name}": value for name, value in versions().items()}}


def cost(run: Run, watch: Stopwatch) -> dict[str, float]:
    """What a run took, for dashboards."""
    stages = {**watch.seconds, **getattr(run.model, "took", {})}
    seconds = {f"seconds_{name}": value for name, value in stages.items()}
    memory = {f"peak_memory_gib_{name}": value for name, value in watch.peak.items()}
    size = (
        {"checkpoint_mib": run.checkpoint.stat().st_size / 2**20}
        if run.checkpoint.is_file()
        else {}
    )
    return {
        **seconds,
        "test_images_per_second": len(run.recorder.rows) / watch.seconds["test"],
        **memory,
        **size,
    }


def device_name(trainer: Trainer) -> str:
    """The GPU's name, or what the CPU is."""
    device = trainer.strategy.root_device
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} ({platform.machine()})"
    )
