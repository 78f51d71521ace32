"""From a tested model to the files of the run folder and the table on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_ad.data.sample import Sample
from lightning_ad.evaluation.bootstrap import Intervals, intervals
from lightning_ad.evaluation.catalogue import METRICS, of_kind, oracle
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.reporting.dashboards.callback import show_test
from lightning_ad.reporting.facts import dashboard_costs, device_name, report_facts
from lightning_ad.reporting.html.report import write_report
from lightning_ad.reporting.provenance import protocol, versions
from lightning_ad.reporting.run import TestedRun
from lightning_ad.reporting.run_images import RunImages, picture_reader
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import (
    ImageResult,
    scores_of,
    write_faults,
    write_predictions,
    write_suspects,
)
from lightning_ad.reporting.terminal import print_summary, warn_of_gaps
from lightning_ad.reporting.training_curves import training_curves
from lightning_ad.system.cost import Stopwatch
from lightning_ad.system.files import write_json
from lightning_ad.system.run_folder import RunFolder


def summarise(run: TestedRun, watch: Stopwatch) -> None:
    """Collects what a tested run found, writes it and prints it; on the first process only."""
    if not run.trainer.is_global_zero:
        return
    results = collect(run, watch)
    warn_of_gaps(results)
    images = RunImages(results.rows, picture_reader(run.datamodule), run.folder.path)
    write(results, images, run.folder, watch)
    costs = dashboard_costs(run, watch)
    show_test(run.trainer, results, images, costs, run.dashboard_images)
    print_summary(results, run.folder)


def collect(run: TestedRun, watch: Stopwatch) -> RunResults:
    """Collects everything that a tested run found; writes nothing."""
    model = run.model
    data = run.datamodule
    rows = run.recorder.rows
    metrics = _metrics(model)
    small_defects = _small_defects(run)
    test = data.samples["test"]
    tested = [test[index] for index in run.recorder.indices]
    counts = {
        **data.counts(),
        **_tested_counts(tested, len(test)),
        "train": model.trained_images,
        "test_without_outline": len(small_defects),
    }
    return RunResults(
        method=type(model).__name__,
        data_set=data.title,
        metrics=metrics,
        rows=rows,
        plots=model.metrics.plots,
        training=training_curves(run.folder.logs / "csv", leave_out=metrics),
        facts=report_facts(run, counts, watch),
        config=run.config_text,
        threshold=run.recorder.threshold,
        intervals={**_image_intervals(rows), **model.metrics.intervals},
        bounds=model.metrics.bounds,
        details=_details(model, rows),
        suspects=model.suspects,
        skipped=data.skipped,
        small_defects=[path for path in small_defects if path not in data.mask_survey.cut_off],
        counts=counts,
        image_size=data.geometry.output,
        has_localization=model.has_localization,
        protocol=protocol(model, data, tested),
        environment=_environment(run),
    )


def write(results: RunResults, images: RunImages, folder: RunFolder, watch: Stopwatch) -> None:
    """Writes tables, report and, last of all, metrics.json: a run that has it is finished."""
    write_predictions(folder.predictions, results.rows)
    if results.suspects is not None:
        write_suspects(folder.suspects, results.suspects)
    if results.skipped:
        write_faults(folder.skipped, results.skipped)
    with watch.stage("report"):
        write_report(folder.report, results, images)
    write_json(folder.metrics, metrics_content(results, watch))


def metrics_content(results: RunResults, watch: Stopwatch) -> dict[str, Any]:
    """Returns the content of metrics.json."""
    content: dict[str, Any] = {
        "metrics": results.metrics,
        "oracle": [name for name in results.metrics if oracle(name)],
        "intervals": results.intervals,
    }
    if results.bounds:
        content["bounds"] = results.bounds
    return {
        **content,
        "details": results.details,
        "protocol": results.protocol,
        "threshold": results.threshold and results.threshold.as_dict(),
        "counts": results.counts,
        "seconds": watch.seconds,
        "peak_memory_gib": watch.peak,
        "peak_memory_gib_by_stage": watch.peaks,
        **results.environment,
    }


def _metrics(model: AnomalyModule) -> dict[str, float]:
    """Returns all values of the test: the catalogue's in its order, then those of evaluators."""
    found = {name: float(value) for name, value in model.test_metrics.items()}
    of_catalogue = {name: found[name] for name in METRICS if name in found}
    return {**of_catalogue, **found}


def _tested_counts(tested: Sequence[Sample], all: int) -> dict[str, int]:
    """Counts the images that were tested, and those that were not, if there are any.

    Args:
        tested: the former.
        all: number of test images.
    """
    anomalous = sum(sample.label for sample in tested)
    counts = {
        "test": len(tested),
        "test_good": len(tested) - anomalous,
        "test_anomalous": anomalous,
    }
    if len(tested) < all:
        counts["test_left_out"] = all - len(tested)
    return counts


def _details(model: AnomalyModule, rows: Sequence[ImageResult]) -> dict[str, Any]:
    """Returns the details of the metrics, with intervals of the image metrics too."""
    details = dict(model.metrics.details)
    of_pixels: Mapping[str, Intervals] = details["by_defect_intervals"]
    by_defect = {}
    for kind in details["by_defect"]:
        shown = [row for row in rows if row.label == 0 or row.defect == kind]
        by_defect[kind] = {**_image_intervals(shown), **of_pixels.get(kind, {})}
    details["by_defect_intervals"] = by_defect
    return details


def _image_intervals(rows: Sequence[ImageResult]) -> Intervals:
    """Returns the 95 % intervals of the metrics of images."""
    labels = np.array([row.label for row in rows])
    return intervals(of_kind(METRICS, "image"), scores_of(rows), labels)


def _small_defects(run: TestedRun) -> list[str]:
    """Lists the test images with a mask of which nothing is left at the network's image size."""
    with_mask = {s.path for s in run.datamodule.samples["test"] if s.mask_path is not None}
    return [path for path in run.recorder.without_outline if path in with_mask]


def _environment(run: TestedRun) -> dict[str, Any]:
    """Returns what the run was made with, for metrics.json."""
    return {
        "device": device_name(run.trainer),
        "processes": run.trainer.world_size,
        "versions": versions(),
        "revision": run.revision,
        "training_set": run.training_set,
        "checkpoint": str(run.checkpoint),
    }
