"""Facts about a run for people: what the report and the dashboards list beside the metrics.

What makes two runs' metrics comparable is in `provenance`; seconds and memory are measured by
`system.cost`.
"""

import platform
from collections.abc import Mapping

import torch
from lightning.pytorch import Trainer

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.depth import EIGHT
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.reporting.provenance import versions
from lightning_ad.reporting.run import TestedRun
from lightning_ad.system.cost import Stopwatch
from lightning_ad.system.names import printable


def report_facts(run: TestedRun, counts: Mapping[str, int], watch: Stopwatch) -> dict[str, str]:
    """Returns what the report lists about a tested run, as text by name."""
    height, width = run.datamodule.geometry.output
    facts = {
        "method": type(run.model).__name__,
        "data set": f"{run.datamodule.title} in {run.datamodule.root}",
        "training images": str(counts["train"]),
        "test images": f"{counts['test_good']} good, {counts['test_anomalous']} anomalous",
    }
    if counts.get("test_left_out"):
        facts["not tested"] = (
            f"{counts['test_left_out']} more images, by trainer.limit_test_batches"
        )
    if counts["skipped"]:
        facts["left out"] = f"{counts['skipped']} images that cannot be used (skipped.csv)"
    if run.recorder.threshold:
        facts["threshold"] = f"{run.recorder.threshold.image:.6g}: {run.recorder.threshold.basis}"
    if run.model.metrics.bounds:
        facts["pixel metrics"] = _bounds_text(run.model.metrics.bounds)
    if run.datamodule.mask_survey.crop_loss:
        facts["crop"] = run.datamodule.mask_survey.crop_loss
    if run.datamodule.bits != EIGHT:
        facts["bits"] = str(run.datamodule.bits)
    facts["image size"] = f"{height} x {width} px (height x width)"
    for stage, seconds in watch.seconds.items():
        facts[f"seconds of {stage}"] = f"{seconds:.1f}"
    facts["peak memory"] = _memory_text(watch.peak)
    facts["device"] = device_name(run.trainer)
    facts["versions"] = ", ".join(f"{name} {number}" for name, number in versions().items())
    return facts


def _bounds_text(bounds: Mapping[str, tuple[float, float]]) -> str:
    texts = []
    for name, (low, high) in bounds.items():
        texts.append(f"{name} {low:.4f} to {high:.4f}")
    return f"counted in bins; the exact ones lie in {', '.join(texts)}"


def _memory_text(peak: Mapping[str, float]) -> str:
    return ", ".join(f"{gib:.2f} GiB ({kind})" for kind, gib in peak.items())


def dashboard_facts(
    model: AnomalyModule, data: AnomalyDataModule, revision: str | None, training_set: str | None
) -> dict[str, str]:
    """Returns what a dashboard lists about a run at its start: method, data, versions, revision."""
    facts = {
        "method": type(model).__name__,
        "data": printable(data.title),
        "view": data.preprocessing,
        "revision": revision or "unknown",
        "training_set": training_set or "unknown",
    }
    for name, number in versions().items():
        facts[f"version_{name}"] = number
    return facts


def dashboard_costs(run: TestedRun, watch: Stopwatch) -> dict[str, float]:
    """Returns the seconds, peak memory, images per second and size of a tested run, by name."""
    costs = {}
    for stage, seconds in {**watch.seconds, **run.model.seconds_by_stage}.items():
        costs[f"seconds_{stage}"] = seconds
    costs["test_images_per_second"] = len(run.recorder.rows) / watch.seconds["test"]
    for kind, gib in watch.peak.items():
        costs[f"peak_memory_gib_{kind}"] = gib
    if run.checkpoint.is_file():
        costs["checkpoint_mib"] = run.checkpoint.stat().st_size / 2**20
    return costs


def device_name(trainer: Trainer) -> str:
    """Returns the GPU's name, or the kind of CPU."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"
