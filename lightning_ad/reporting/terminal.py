"""What a run prints: the table of metrics, and sentences around it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from lightning.pytorch.utilities import rank_zero_warn

from lightning_ad.evaluation.catalogue import oracle
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import ImageResult, of_label
from lightning_ad.system.names import show
from lightning_ad.system.run_folder import RunFolder


def print_summary(results: RunResults, folder: RunFolder) -> None:
    """Prints what a run found, and where it was written."""
    show("\n".join(summary_lines(results, folder)))


def summary_lines(results: RunResults, folder: RunFolder) -> list[str]:
    """Returns the lines that `print_summary` prints."""
    lines = list_lines(results, folder)
    lines.append(headline(results))
    lines.append(metrics_table(results.metrics, results.intervals))
    if results.threshold is not None:
        lines.append(f"\n{verdict_sentence(results.rows, results.threshold)}")
    if results.bounds:
        lines.append("\nPixels were counted in bins; the exact metrics lie in")
        lines.append(bounds_table(results.bounds))
    lines.append(f"\nReport: {folder.report}")
    return lines


def list_lines(results: RunResults, folder: RunFolder) -> list[str]:
    """Says where the lists of suspicious and of skipped images are, if there are such images."""
    lines = []
    if results.suspects is not None:
        trimmed = sum(suspect.trimmed for suspect in results.suspects)
        left_out = f" ({trimmed} of {len(results.suspects)} are left out)" if trimmed else ""
        lines.append(f"Training images, the most suspicious first: {folder.suspects}{left_out}")
    if results.skipped:
        lines.append(f"Images that were left out: {folder.skipped}")
    return lines


def headline(results: RunResults) -> str:
    """Returns a line with method, data set, and numbers and size of the images."""
    counts = results.counts
    height, width = results.image_size
    trained = f"{counts['train']} training images, " if counts["train"] else ""
    return (
        f"{results.title}: {trained}{counts['test_good']} good and {counts['test_anomalous']} "
        f"anomalous test images, {height} x {width} px"
    )


def metrics_table(
    metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> str:
    """Returns a line for each metric: its value to six digits, or n/a, and its 95 % interval."""
    width = max(map(len, metrics))
    lines = []
    for name, value in metrics.items():
        shown = "n/a" if math.isnan(value) else f"{value:.6f}"
        interval = ""
        if name in intervals:
            low, high = intervals[name]
            interval = f"  [{low:.3f}, {high:.3f}]"
        lines.append(f"{name:<{width}}  {shown}{interval}  {oracle(name)}".rstrip())
    return "\n".join(lines)


def verdict_sentence(rows: Sequence[ImageResult], threshold: Threshold) -> str:
    """Says how many test images the threshold calls anomalous."""
    verdicts = Counter(row.verdict for row in rows)
    good = len(of_label(rows, 0))
    anomalous = len(of_label(rows, 1))
    return (
        f"Threshold {threshold.image:.6g} ({threshold.basis}): {verdicts['found']} of {anomalous} "
        f"anomalous images found, {verdicts['false alarm']} of {good} good ones called anomalous"
    )


def bounds_table(bounds: Mapping[str, tuple[float, float]]) -> str:
    """Returns a line for each metric: the numbers between which its exact value lies."""
    width = max(map(len, bounds))
    lines = [f"{name:<{width}}  [{low:.6f}, {high:.6f}]" for name, (low, high) in bounds.items()]
    return "\n".join(lines)


def warn_of_gaps(results: RunResults) -> None:
    """Warns if metrics leave out images, or mean little because scores or maps are all alike."""
    left_out = results.counts.get("test_left_out", 0)
    if left_out:
        tested = results.counts["test"]
        rank_zero_warn(
            f"{tested} of {tested + left_out} test images were tested, and all numbers are of "
            "these: leave out trainer.limit_test_batches (and fast_dev_run) to test all"
        )
    if results.small_defects:
        or_tile = "" if results.protocol.get("tiles") else ", or data.tile,"
        rank_zero_warn(
            f"{len(results.small_defects)} anomalous images have a mask, but no defective pixel as "
            "the network sees them (the defect is smaller than a pixel at this size, or ignored, "
            "or the mask is blank): they are left out of the pixel metrics; the first is "
            f"{results.small_defects[0]}. A larger data.image_size{or_tile} keeps small defects"
        )
    if len({row.score for row in results.rows}) == 1 and len(results.rows) > 1:
        rank_zero_warn(
            f"all {len(results.rows)} test images have the same score, {results.rows[0].score:g}: "
            "the metrics say nothing of the method. Look for weights of another network, or so "
            "large that numbers overflow, and for images that are all alike"
        )
    if not results.has_localization:
        rank_zero_warn(
            f"{results.method} scores whole images here: a map has one value, and pixel metrics do "
            "not say where (--model.map true makes maps)"
        )
