"""The scores of a report: a sentence, a histogram, and a table of the kinds of defect."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

import numpy as np
from numpy.typing import NDArray

from lightning_ad.data.sample import GOOD
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.reporting import charts
from lightning_ad.reporting.charts import Axis
from lightning_ad.reporting.html.text import elements, shown_number
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import ImageResult, of_label, scores_of

METRICS_OF_DEFECTS = {  # columns of the table of defects
    "image_AUROC": "image AUROC",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AP": "pixel AP",
    "pixel_AUPRO_0.30": "AUPRO 0.30",
    "pixel_AUsPRO_0.05": "AUsPRO 0.05",
}
Scores = NDArray[np.float64]
BINS = 50
WIDTH = 440  # pixels of the histogram of one kind
HEIGHT = 122


def verdict_text(rows: Sequence[ImageResult], threshold: Threshold | None) -> str:
    """Says how well the scores separate good from anomalous images, and what the threshold does."""
    good = scores_of(of_label(rows, 0))
    anomalous = scores_of(of_label(rows, 1))
    sentences = [f"{len(good)} good and {len(anomalous)} anomalous images."]
    if len(good) and len(anomalous):
        sentences.append(_overlap_sentence(good, anomalous))
    else:
        sentences.append("With only one kind of image there is nothing to separate.")
    if has_verdicts(rows):
        sentences.append(_threshold_sentence(rows, threshold))
    return " ".join(sentences)


def _overlap_sentence(good: Scores, anomalous: Scores) -> str:
    highest_good = float(good.max())
    lowest_anomalous = float(anomalous.min())
    below = int((anomalous < highest_good).sum())
    above = int((good > lowest_anomalous).sum())
    if not below:
        return "<strong>No anomalous image scores below a good one.</strong>"
    return (
        f"<strong>{below} of {len(anomalous)} anomalous images score below the highest good image"
        f"</strong> ({shown_number(highest_good)}), and {above} of {len(good)} good images score"
        f" above the lowest anomalous one ({shown_number(lowest_anomalous)})."
    )


def _threshold_sentence(rows: Sequence[ImageResult], threshold: Threshold | None) -> str:
    verdicts = Counter(row.verdict for row in rows)
    basis = "" if threshold is None else f" ({escape(threshold.basis)})"
    return (
        f"With the threshold of this run{basis}, {verdicts['found']} anomalous images are found and"
        f" {verdicts['missed']} missed, with {verdicts['false alarm']} false alarms."
    )


def has_verdicts(rows: Sequence[ImageResult]) -> bool:
    """Returns whether the run has a threshold for images."""
    return any(row.anomalous is not None for row in rows)


def histogram(rows: Sequence[ImageResult], threshold: Threshold | None) -> str:
    """Draws two charts, good over anomalous, with the same axis of scores.

    The last bar counts what lies far above the good images. The threshold of the run is a line, if
    it lies among the scores.
    """
    good = _finite(scores_of(of_label(rows, 0)))
    anomalous = _finite(scores_of(of_label(rows, 1)))
    axis = _score_axis(good, anomalous)
    edges = axis.edges(BINS)
    named_line = {}
    bare_line = {}
    if threshold is not None and edges[0] <= threshold.image < edges[-1]:
        named_line["called anomalous above"] = threshold.image
        bare_line[""] = threshold.image
    unnamed_axis = replace(axis, label="")
    upper = _histogram_of(good, GOOD, unnamed_axis, edges, named_line)
    lower = _histogram_of(anomalous, "anomalous", axis, edges, bare_line)
    return upper + lower


def _finite(scores: Scores) -> Scores:
    return scores[np.isfinite(scores)]


def _score_axis(good: Scores, anomalous: Scores) -> Axis:
    """Makes an axis of all scores that ends early if a few lie far above the good images."""
    scores = np.concatenate([good, anomalous])
    axis = Axis.fit(scores, "image score")
    if axis.log or not len(good) or not len(anomalous):
        return axis
    above_good = 3 * good.max() - 2 * good.min()
    far = max(above_good, np.quantile(anomalous, 0.75))
    if not scores.min() < far < axis.high:
        return axis
    label = f"image score (last bar: {shown_number(float(far))} and above)"
    return Axis(axis.low, float(far), label)


def _histogram_of(
    scores: Scores,
    kind: str,
    axis: Axis,
    edges: NDArray[np.float64],
    notes: Mapping[str, float],
) -> str:
    counts = np.histogram(np.minimum(scores, edges[-1]), edges)[0]
    count_axis = Axis(0, max(4, int(counts.max())) * 1.05, kind)
    bars = charts.bars(axis, count_axis, edges, counts, kind)
    return charts.chart(axis, count_axis, bars, WIDTH, HEIGHT, notes)


def rows_by_defect(rows: Sequence[ImageResult]) -> dict[str, list[ImageResult]]:
    """Groups the rows by kind of defect; `good` is the first."""
    by_defect: dict[str, list[ImageResult]] = {}
    for row in sorted(rows, key=lambda row: (row.defect != GOOD, row.defect)):
        by_defect.setdefault(row.defect, []).append(row)
    return by_defect


def defect_table(rows: Sequence[ImageResult], results: RunResults) -> str:
    """Writes the table of the kinds of defect: numbers of images, mean scores and metrics."""
    columns = _metric_columns(results)
    heads = ["Defect", "images"]
    if has_verdicts(rows):
        heads.append("called anomalous")
    heads.append("mean score")
    for name in columns:
        heads.append(METRICS_OF_DEFECTS[name])
    lines = []
    for defect, of_kind in rows_by_defect(rows).items():
        cells = _image_cells(of_kind, has_verdicts(rows))
        cells += _metric_cells(defect, results, columns)
        lines.append(f"<tr><th>{escape(defect)}</th>{elements('td', cells)}</tr>")
    head = f"<thead><tr>{elements('th', heads)}</tr></thead>"
    return f"<table>{head}<tbody>{''.join(lines)}</tbody></table>"


def _metric_columns(results: RunResults) -> list[str]:
    """Returns the metrics of the table that any kind of defect has."""
    columns = []
    for name in METRICS_OF_DEFECTS:
        values = [metrics.get(name, math.nan) for metrics in results.by_defect.values()]
        if not all(math.isnan(value) for value in values):
            columns.append(name)
    return columns


def _image_cells(rows: Sequence[ImageResult], with_verdicts: bool) -> list[str]:
    cells = [str(len(rows))]
    if with_verdicts:
        called = [row for row in rows if row.anomalous]
        cells.append(f"{len(called)} ({len(called) / len(rows):.0%})")
    cells.append(shown_number(float(scores_of(rows).mean())))
    return cells


def _metric_cells(defect: str, results: RunResults, columns: Sequence[str]) -> list[str]:
    metrics = results.by_defect.get(defect, {})
    intervals = results.by_defect_intervals.get(defect, {})
    cells = []
    for name in columns:
        cells.append(_metric_cell(metrics.get(name, math.nan), intervals.get(name)))
    return cells


def _metric_cell(value: float, interval: tuple[float, float] | None) -> str:
    if math.isnan(value):
        return ""
    if interval is None:
        return f"{value:.4f}"
    low, high = interval
    return f'{value:.4f}<small title="95 % interval">{low:.3f} to {high:.3f}</small>'
