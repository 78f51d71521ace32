"""From a tested model to the files of the run folder and the table on the screen."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.ignoring import read_ignored
from lightning_ad.data.reading import read_image, read_mask
from lightning_ad.evaluation.bootstrap import intervals
from lightning_ad.evaluation.catalogue import METRICS, of_kind, oracle
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.reporting.dashboards.callback import show_test
from lightning_ad.reporting.facts import Run, cost, counts, device_name, report_facts, small_defects
from lightning_ad.reporting.html.cards import colour_scale
from lightning_ad.reporting.html.report import write_report
from lightning_ad.reporting.pictures import hatch
from lightning_ad.reporting.provenance import fingerprint, protocol, versions
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import (
    ImageResult,
    write_faults,
    write_predictions,
    write_suspects,
)
from lightning_ad.system.cost import Stopwatch
from lightning_ad.system.files import write_json


def summarise(run: Run, watch: Stopwatch) -> None:
    """Writes predictions, report and, last of all, metrics.json; prints the table. On the first process only."""
    if not run.trainer.is_global_zero:
        return
    metrics = {name: float(value) for name, value in run.model.metrics.compute().items()}
    if blank := small_defects(run):
        rank_zero_warn(
            f"{len(blank)} anomalous images have a mask, but no defective pixel as the network sees them (the defect "
            "is smaller than a pixel at this size, or ignored, or the mask is blank): they are left out of the pixel "
            f"metrics; the first is {blank[0]}. A larger data.image_size, or data.tile, keeps small defects"
        )
    if not run.model.has_localization:
        rank_zero_warn(
            f"{type(run.model).__name__} scores whole images here: a map has one value, and pixel metrics do not say "
            "where (--model.map true makes maps)"
        )
    folder, rows, bounds = run.folder, run.recorder.rows, run.model.metrics.bounds
    write_predictions(folder.predictions, rows)
    sure = {**_intervals(rows), **run.model.metrics.intervals}
    details = dict(run.model.metrics.details)
    sure_pixels = details["by_defect_intervals"]
    details["by_defect_intervals"] = {
        kind: {**_intervals_of(rows, kind), **sure_pixels.get(kind, {})}
        for kind in details["by_defect"]
    }
    if run.model.suspects is not None:
        write_suspects(folder.suspects, run.model.suspects)
    if run.datamodule.skipped:
        write_faults(folder.skipped, run.datamodule.skipped)
        print(f"Images that were left out: {folder.skipped}")
    with watch.stage("report"):
        results = RunResults(
            title=f"{type(run.model).__name__} on {run.datamodule.title}",
            metrics=metrics,
            rows=rows,
            plots=run.model.metrics.plots,
            training=training_curves(folder.logs / "csv"),
            facts=report_facts(run, watch),
            config=run.config_text,
            threshold=run.recorder.threshold,
            intervals=sure,
            by_defect=details["by_defect"],
            by_defect_intervals=details["by_defect_intervals"],
        )
        scale = colour_scale(rows, folder.path)
        write_report(folder.report, results, _picture(run.datamodule), folder.path, scale)
    write_json(
        folder.metrics,
        {
            "metrics": metrics,
            "oracle": [name for name in metrics if oracle(name)],
            "intervals": sure,
            **({"bounds": bounds} if bounds else {}),
            "details": details,
            "protocol": protocol(run.model, run.datamodule),
            "threshold": run.recorder.threshold and run.recorder.threshold.as_dict(),
            "counts": counts(run),
            "seconds": watch.seconds,
            "peak_memory_gib": watch.peak,
            "peak_memory_gib_by_stage": watch.peaks,
            "device": device_name(run.trainer),
            "processes": run.trainer.world_size,
            "versions": versions(),
            "revision": run.revision,
            "training_set": run.training_set,
            "checkpoint": str(run.checkpoint),
        },
    )
    show_test(
        run.trainer, results, _picture(run.datamodule), folder.path,
        {"test_set": fingerprint(run.datamodule.samples["test"])}, cost(run, watch), scale, run.dashboard_images,
    )  # fmt: skip
    number, size = counts(run), run.datamodule.geometry.output
    trained = f"{number['train']} training images, " if number["train"] else ""
    tested = f"{number['test_good']} good and {number['test_anomalous']} anomalous test images"
    print(f"{results.title}: {trained}{tested}, {size[0]} x {size[1]} px")
    print(table(metrics, sure))
    if run.recorder.threshold is not None:
        print(verdicts(rows, run.recorder.threshold))
    if bounds:
        print("\nPixels were counted in bins; the exact metrics lie in")
        print(
            "\n".join(
                f"{name:<16}  [{low:.6f}, {high:.6f}]" for name, (low, high) in bounds.items()
            )
        )
    print(f"\nReport: {folder.report}")


def verdicts(rows: Sequence[ImageResult], threshold: Threshold) -> str:
    """What the threshold of a run does to its test images, as a line of text."""
    called = [sum(bool(row.anomalous) for row in rows if row.label == label) for label in (0, 1)]
    good, bad = (sum(row.label == label for row in rows) for label in (0, 1))
    return (
        f"\nThreshold {threshold.image:.6g} ({threshold.basis}): "
        f"{called[1]} of {bad} anomalous images found, {called[0]} of {good} good ones called anomalous"
    )


def table(metrics: dict[str, float], sure: dict[str, tuple[float, float]]) -> str:
    """The metrics, one a line, to six digits, and their 95 % intervals; n/a where there is no image that one needs."""
    width = max(map(len, metrics))
    lines = []
    for name, value in metrics.items():
        ends = f"  [{sure[name][0]:.3f}, {sure[name][1]:.3f}]" if name in sure else ""
        line = f"{name:<{width}}  {'n/a' if math.isnan(value) else f'{value:.6f}'}{ends}  {oracle(name)}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _intervals(rows: Sequence[ImageResult]) -> dict[str, tuple[float, float]]:
    """Of the metrics of images."""
    return intervals(
        of_kind(METRICS, "image"),
        np.array([r.score for r in rows]),
        np.array([r.label for r in rows]),
    )


def _intervals_of(rows: Sequence[ImageResult], kind: str) -> dict[str, tuple[float, float]]:
    """Of the good images and those of one kind of defect."""
    return _intervals([row for row in rows if row.label == 0 or row.defect == kind])


def training_curves(folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    """(steps, values) of everything logged in training; where a run was resumed, what it did again counts."""
    curves: dict[str, dict[int, float]] = {}
    files = sorted(
        folder.glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.rpartition("_")[2])
    )
    for path in files:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        first = min((int(row["step"]) for row in rows), default=0)
        for curve in curves.values():
            for step in [s for s in curve if s >= first]:
                del curve[step]
        for row in rows:
            for name in row.keys() - {"step", "epoch"}:
                if row[name] and not name.startswith(("image_", "pixel_")):
                    curves.setdefault(name, {})[int(row["step"])] = float(row[name])
    return {
        name: ([*map(float, curve)], [*curve.values()]) for name, curve in sorted(curves.items())
    }


def _picture(data: AnomalyDataModule):  # noqa: ANN202
    samples = {s.path: s for s in data.samples["test"]}

    def picture(row: ImageResult) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        sample = samples[row.path]
        full = read_image(sample.path)
        image = data.geometry.image(full).mul(255).round().byte().permute(1, 2, 0).numpy()
        mask, size = (
            torch.zeros(data.geometry.output, dtype=torch.bool),
            (full.shape[-2], full.shape[-1]),
        )
        if sample.mask_path is not None:
            mask = data.geometry.mask(
                read_mask(sample.mask_path, size, sample.mask_threshold, sample.ignore_value)
            )
        if (ignored := read_ignored(sample, size)) is not None:
            ignore = data.geometry.mask(ignored)
            image, mask = hatch(image, ignore.numpy()), mask & ~ignore
        return image, mask.numpy()

    return picture
