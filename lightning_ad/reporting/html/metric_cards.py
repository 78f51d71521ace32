"""The metrics of a report: a card for each, with its value, its interval and its meaning."""

import math
from html import escape
from typing import NamedTuple

from lightning_ad.evaluation.catalogue import METRICS, oracle
from lightning_ad.reporting.html.text import shown_number
from lightning_ad.reporting.run_results import RunResults

OTHER = "other"
LEVELS = {
    "image": 'Is the part anomalous? <span class="soft">image level</span>',
    "pixel": 'Where is the defect? <span class="soft">pixel level</span>',
    OTHER: "Also measured",
}
EXPLANATIONS = {
    "image_AUROC": (
        "Probability that an anomalous image scores higher than a good one; 0.5 is chance."
    ),
    "image_AP": "Average precision: the share of alarms that are true, over all thresholds.",
    "image_F1Max": "Balance of misses and false alarms at the best possible threshold.",
    "pixel_AUROC": (
        "Probability that a defective pixel scores higher than a good one; 0.5 is chance."
    ),
    "pixel_AP": (
        "Average precision: the share of marked pixels that are defective, over all thresholds."
    ),
    "pixel_F1Max": "Agreement of marked and defective pixels at the best possible threshold.",
    "pixel_AUPRO_0.30": (
        "Mean share of each defect that is covered, small or large alike, while up to 30&nbsp;% of"
        " the good pixels are marked."
    ),
    "pixel_AUPRO_0.05": (
        "The same while up to 5&nbsp;% of the good pixels are marked: the stricter figure."
    ),
}
SHORT_NAMES = {"F1Max": "Best F1"}


class MetricGroups(NamedTuple):
    """The metrics of a report in groups: of images, of pixels, and others.

    Attributes:
        html: heading and cards of each group.
        columns: widths of the first two groups, as CSS: each is as wide as its number of cards;
            other metrics have a line of their own.
    """

    html: str
    columns: str


def metric_groups(results: RunResults, has_outlines: bool) -> MetricGroups:
    """Returns the metrics of a run; those of the catalogue are first, in its order.

    Args:
        results: the run's.
        has_outlines: whether any test image has a true outline.
    """
    names = dict.fromkeys([*METRICS, *results.metrics])
    groups = []
    columns = []
    for level, heading in LEVELS.items():
        cards = []
        for name in names:
            if _level(name) == level:
                cards.append(_card(name, results, has_outlines))
        if cards:
            content = f'<div class="cards">{"".join(cards)}</div>'
            groups.append(f'<div class="{level}"><h2>{heading}</h2>{content}</div>')
        if level != OTHER:
            columns.append(f"{len(cards)}fr")
    return MetricGroups("".join(groups), " ".join(columns))


def _level(name: str) -> str:
    first = name.partition("_")[0]
    return first if first in LEVELS else OTHER


def short_name(name: str) -> str:
    """Returns a metric's name without its level: `pixel_AUPRO_0.30` gives `AUPRO 0.30`."""
    short = name.removeprefix(f"{_level(name)}_")
    short = SHORT_NAMES.get(short, short.replace("_", " "))
    return f"{short} (oracle)" if oracle(name) else short


def _card(name: str, results: RunResults, has_outlines: bool) -> str:
    heading = f"<h3>{escape(short_name(name))}</h3>"
    explanation = ""
    if name in EXPLANATIONS:
        explanation = f'<p class="soft">{EXPLANATIONS[name]}</p>'
    value = results.metrics.get(name, math.nan)
    if math.isnan(value):
        shown = f'<b class="none">n/a</b><em>{_why_missing(name, results, has_outlines)}</em>'
    else:
        shown = _value(name, value) + _interval(results.intervals.get(name))
    return f"<div>{heading}{shown}{explanation}<code>{escape(name)}</code></div>"


def _value(name: str, value: float) -> str:
    """Writes a value; with a bar if the metric is of the catalogue, and so in [0, 1]."""
    if name in METRICS:
        return f'<b>{value:.4f}</b><i style="--share:{value:.4f}"></i>'
    return f"<b>{shown_number(value)}</b>"


def _why_missing(name: str, results: RunResults, has_outlines: bool) -> str:
    labels = {row.label for row in results.rows}
    if name in METRICS:
        if 1 not in labels:
            return "no anomalous images"
        if 0 not in labels:
            return "no good images"
        if _level(name) == "pixel" and not has_outlines:
            return "no true outlines"
    return "not computed"


def _interval(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    low, high = interval
    return f"<em>95 % interval {low:.3f} to {high:.3f}</em>"
