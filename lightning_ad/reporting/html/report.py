"""report.html: what a run has to tell, in one file that opens anywhere."""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from lightning_ad.data.sample import GOOD
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.reporting import charts, pictures
from lightning_ad.reporting.charts import Axis
from lightning_ad.reporting.html.cards import (
    SIDE,
    card,
    colour_scale,
    picture_layers,
    script_number,
    shown_number,
)
from lightning_ad.reporting.maps import read_map
from lightning_ad.reporting.pictures import Mask, Picture
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import VERDICTS, ImageResult
from lightning_ad.system.files import replacing
from lightning_ad.system.progress import counting
from lightning_ad.system.threads import map_single_threaded

BUDGET = 18_000_000  # characters for all pictures together; they shrink where it would be exceeded
WORST = 6

BY_DEFECT = {  # columns of the table of defects
    "image_AUROC": "image AUROC",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AP": "pixel AP",
    "pixel_AUPRO_0.30": "AUPRO 0.30",
    "pixel_AUsPRO_0.05": "AUsPRO 0.05",
}


PLOTS = {  # key: the axes' names
    "image ROC": ("false positive rate", "true positive rate"),
    "image precision-recall": ("recall", "precision"),
    "pixel ROC": ("false positive rate", "true positive rate"),
    "pixel PRO": ("false positive rate", "per-region overlap"),
    "pixel precision-recall": ("recall", "precision"),
}


def write_report(
    path: str | Path,
    results: RunResults,
    picture: Callable[[ImageResult], tuple[Picture, Mask]],
    run_folder: Path,
    scale: tuple[float, float] | None = None,
) -> None:
    """Writes the report as one HTML file, at most about 20 MB, that loads nothing from elsewhere.

    Args:
        path: the file; it is replaced only once the report is complete.
        results: numbers and rows.
        picture: the image uint8 [H, W, 3] of a row and its true mask bool [H, W] (empty where there is none).
        run_folder: the folder that the rows' `map_path` starts from.
        scale: where the colours of heat maps begin and end; None for `colour_scale`.
    """
    rows = sorted(
        results.rows, key=lambda r: -math.inf if math.isnan(r.score) else r.score, reverse=True
    )
    scale = colour_scale(rows, run_folder) if scale is None else scale
    room = BUDGET // max(len(rows), 600)

    def draw(number: int) -> tuple[str, str, bool]:
        image, mask = picture(rows[number])
        image = pictures.thumbnail(image, SIDE)
        mask = pictures.thumbnail_mask(mask, *image.shape[:2])
        map_path = rows[number].map_path
        heat = pictures.heat(read_map(run_folder / map_path), *scale) if map_path else None
        drawn = (
            picture_layers(number, image, mask, heat, room),
            card(number, rows[number], names[number], *mask.shape),
        )
        advance(1)
        return *drawn, bool(mask.any())

    names = list(_names(rows))
    with counting(len(rows), "report", "image") as advance:
        drawn = map_single_threaded(draw, range(len(rows)))
    layers, cards, with_mask = zip(*drawn, strict=True) if drawn else ((), (), ())
    masked = any(with_mask)

    bar = pictures.translucent(pictures.COLOURS[None].astype(np.uint8))
    by_label = [
        [c for c, r in zip(cards, rows, strict=True) if r.label == label] for label in (0, 1)
    ]
    defects = sorted({r.defect for r in rows}, key=lambda d: (d != GOOD, d))
    template, script = (
        Path(__file__).with_name(f"report.{kind}") for kind in ("html.template", "js")
    )
    page = Template(template.read_text(encoding="utf-8")).substitute(
        _metrics(results, masked),
        script=script.read_text(encoding="utf-8"),
        title=escape(results.title),
        verdict=_verdict(rows, results.threshold),
        histogram=_histogram(rows, results.threshold),
        defects="".join(_defect(d, rows, results) for d in defects),
        by_defect="".join(f"<th>{BY_DEFECT[name]}</th>" for name in _columns(results)),
        called="<th>called anomalous</th>" if _has_verdicts(rows) else "",
        training=_training(results.training),
        worst_good="".join(by_label[0][:WORST]) or "<p>There are no good images.</p>",
        worst_anomalous="".join(by_label[1][: -WORST - 1 : -1])
        or "<p>There are no anomalous images.</p>",
        first=GOOD if by_label[0] else "anomalous",
        last="anomalous" if by_label[1] else GOOD,
        low=shown_number(scale[0]),
        high=shown_number(scale[1]),
        colours=", ".join(f"rgb({r} {g} {b} / {a / 255:.2f})" for r, g, b, a in bar[0].tolist()),
        choices="".join(f"<option>{escape(d)}</option>" for d in defects),
        limit="" if results.threshold is None else script_number(results.threshold.image),
        count=len(rows),
        cards="".join(cards),
        facts="".join(
            f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in results.facts.items()
        ),
        config=escape(results.config),
        layers="".join(layers),
        **_curves(results.plots),
    )
    with replacing(path, errors="xmlcharrefreplace") as file:
        file.write(page)


def _names(rows: Sequence[ImageResult]) -> list[str]:
    """The paths without the folders that all of them share."""
    shared = os.path.commonprefix([r.path for r in rows]).rfind("/") + 1  # noqa: RUF071
    return [r.path[shared:] for r in rows]


def _metrics(results: RunResults, masked: bool) -> dict[str, str]:
    labels = {r.label for r in results.rows}
    lacks = (
        "no anomalous images" if 1 not in labels else "no good images" if 0 not in labels else ""
    )
    texts = {}
    for name in METRIC_NAMES:
        value = results.metrics.get(name, math.nan)
        why = lacks or (
            "no true outlines" if name.startswith("pixel") and not masked else "not computed"
        )
        texts[re.sub(r"\W", "_", name)] = (
            f'<b class="none">n/a</b><em>{why}</em>' if math.isnan(value)
            else f'<b>{value:.4f}</b><i style="--share:{value:.4f}"></i>{_interval(results.intervals.get(name))}'
        )  # fmt: skip
    return texts


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"<em>95 % interval {ends[0]:.3f} to {ends[1]:.3f}</em>"


def _verdict(rows: Sequence[ImageResult], threshold: Threshold | None) -> str:
    basis = "" if threshold is None else f" ({escape(threshold.basis)})"
    good, anomalous = ([r for r in rows if r.label == label] for label in (0, 1))
    text = f"{len(good)} good and {len(anomalous)} anomalous images. "
    if good and anomalous:
        highest, lowest = max(r.score for r in good), min(r.score for r in anomalous)
        low, high = sum(r.score < highest for r in anomalous), sum(r.score > lowest for r in good)
        if not low:
            text += "<strong>No anomalous image scores below a good one.</strong> "
        else:
            text += (
                f"<strong>{low} of {len(anomalous)} anomalous images score below the highest good image"
                f"</strong> ({shown_number(highest)}), and {high} of {len(good)} good images score above the"
                f" lowest anomalous one ({shown_number(lowest)}). "
            )
    else:
        text += "With one kind alone there is nothing to tell apart. "
    counts = {v: sum(r.verdict == v for r in rows) for v in VERDICTS.values()}
    if any(counts.values()):
        text += (
            f"With the limit of this run{basis}, {counts['found']} anomalous images are found and"
            f" {counts['missed']} missed; false alarms: {counts['false alarm']} good images."
        )
    return text


def _histogram(rows: Sequence[ImageResult], threshold: Threshold | None) -> str:
    """Two charts, good over anomalous, with one axis; the last bar takes what lies far above the good images.

    The limit of the run is a line, where it lies among the scores.
    """
    scores = [
        np.array([r.score for r in rows if r.label == n and math.isfinite(r.score)]) for n in (0, 1)
    ]
    both = np.concatenate(scores)
    x = Axis.fit(both, "image score")
    if not x.log and len(scores[0]) and len(scores[1]):
        far = max(3 * scores[0].max() - 2 * scores[0].min(), np.quantile(scores[1], 0.75))
        if both.min() < far < x.high:
            x = Axis(
                x.low, float(far), f"image score (last bar: {shown_number(float(far))} and above)"
            )
    edges = x.edges(50)
    limit = math.inf if threshold is None else threshold.image
    within = edges[0] <= limit < edges[-1]
    drawn = []
    for label, kind in enumerate((GOOD, "anomalous")):
        counts = np.histogram(np.minimum(scores[label], edges[-1]), edges)[0]
        y = Axis(0, max(4, int(counts.max())) * 1.05, kind)
        notes = {"" if label else "called anomalous above": limit} if within else {}
        axis = replace(x, label=x.label if label else "")
        drawn.append(
            charts.chart(axis, y, charts.bars(axis, y, edges, counts, kind), 440, 122, notes)
        )
    return "".join(drawn)


def _has_verdicts(rows: Sequence[ImageResult]) -> bool:
    return any(r.anomalous is not None for r in rows)


def _columns(results: RunResults) -> list[str]:
    """The metrics of the table of defects that any kind of defect has."""
    return [
        name
        for name in BY_DEFECT
        if any(not math.isnan(m.get(name, math.nan)) for m in results.by_defect.values())
    ]


def _defect(defect: str, rows: Sequence[ImageResult], results: RunResults) -> str:
    """A row of the table of defects."""
    of_kind = [r for r in rows if r.defect == defect]
    cells = [str(len(of_kind))]
    if _has_verdicts(rows):
        called = sum(r.anomalous or False for r in of_kind)
        cells.append(f"{called} ({called / len(of_kind):.0%})")
    cells.append(shown_number(float(np.mean([r.score for r in of_kind]))))
    metrics, sure = (
        part.get(defect, {}) for part in (results.by_defect, results.by_defect_intervals)
    )
    for name in _columns(results):
        value = metrics.get(name, math.nan)
        ends = (
            '<small title="95 % interval">{:.3f} to {:.3f}</small>'.format(*sure[name])
            if name in sure
            else ""
        )
        cells.append("" if math.isnan(value) else f"{value:.4f}{ends}")
    return f"<tr><th>{escape(defect)}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"


def _curves(plots: dict[str, tuple[list[float], list[float]]]) -> dict[str, str]:
    texts = {}
    for key, (x_name, y_name) in PLOTS.items():
        pro = key == "pixel PRO"
        x = Axis(-0.005, 0.35, x_name) if pro else Axis(-0.015, 1.015, x_name)
        y = Axis(-0.015, 1.015, y_name)
        xs, ys = plots.get(key, ([], []))
        svg = charts.chart(
            x, y, charts.curve(x, y, xs, ys), notes={"0.05": 0.05, "0.30": 0.3} if pro else {}
        )
        texts[re.sub(r"\W", "_", key)] = svg if len(xs) else '<p class="none">not computed</p>'
    return texts


def _training(training: dict[str, tuple[list[float], list[float]]]) -> str:
    drawn = []
    for name, (steps, values) in training.items():
        if len(steps) < 2:  # a point is no curve
            continue
        x, y = Axis.fit([0, *steps], "step"), Axis.fit(values)
        svg = charts.chart(x, y, charts.curve(x, y, steps, values))
        drawn.append(f"<figure><h3>{escape(name)}</h3>{svg}</figure>")
    body = f'<section><h2>Training</h2><div class="curves">{"".join(drawn)}</div></section>'
    return body if drawn else ""
