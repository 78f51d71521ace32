"""report.html: what a run found, in one file that opens anywhere."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from lightning_ad.data.sample import GOOD
from lightning_ad.reporting import pictures
from lightning_ad.reporting.html.cards import Card, draw_cards
from lightning_ad.reporting.html.curves import curve_figures, training_section
from lightning_ad.reporting.html.metric_cards import metric_groups
from lightning_ad.reporting.html.scores import (
    defect_table,
    histogram,
    rows_by_defect,
    verdict_text,
)
from lightning_ad.reporting.html.text import elements, script_number, shown_number
from lightning_ad.reporting.run_images import RunImages
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import ImageResult
from lightning_ad.system.files import replacing

KINDS = (GOOD, "anomalous")  # by label
WORST = 6  # images of each kind that are shown first


def write_report(path: str | Path, results: RunResults, images: RunImages) -> None:
    """Writes the report as one HTML file of at most about 20 MB that loads nothing from elsewhere.

    Args:
        path: the file; it is replaced only once the report is complete.
        results: numbers and rows.
        images: the images of the rows.
    """
    rows = sorted(results.rows, key=_sort_score, reverse=True)
    cards = draw_cards(rows, images)
    page = _template("report.html.template").substitute(
        title=escape(results.title),
        script=_source("report.js"),
        **_metric_fields(results, cards),
        **_score_fields(rows, results),
        curves=curve_figures(results.plots),
        training=training_section(results.training),
        **_worst_fields(rows, cards),
        **_gallery_fields(rows, cards, images.colour_scale),
        facts=_facts_list(results.facts),
        config=escape(results.config),
    )
    with replacing(path, errors="xmlcharrefreplace") as file:
        file.write(page)


def _sort_score(row: ImageResult) -> float:
    return -math.inf if math.isnan(row.score) else row.score


def _template(name: str) -> Template:
    return Template(_source(name))


def _source(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _metric_fields(results: RunResults, cards: Sequence[Card]) -> dict[str, str]:
    has_outlines = any(card.has_outline for card in cards)
    groups = metric_groups(results, has_outlines)
    return {"metrics": groups.html, "metric_columns": groups.columns}


def _score_fields(rows: Sequence[ImageResult], results: RunResults) -> dict[str, str]:
    threshold = results.threshold
    return {
        "verdict": verdict_text(rows, threshold),
        "histogram": histogram(rows, threshold),
        "defects": defect_table(rows, results),
        "limit": "" if threshold is None else script_number(threshold.image),
    }


def _worst_fields(rows: Sequence[ImageResult], cards: Sequence[Card]) -> dict[str, str]:
    """Returns the good images with the highest scores, and the anomalous ones with the lowest."""
    good = []
    anomalous = []
    for row, card in zip(rows, cards, strict=True):
        figures = anomalous if row.label else good
        figures.append(card.figure)
    anomalous.reverse()
    return {
        "worst_good": "".join(good[:WORST]) or "<p>There are no good images.</p>",
        "worst_anomalous": "".join(anomalous[:WORST]) or "<p>There are no anomalous images.</p>",
    }


def _gallery_fields(
    rows: Sequence[ImageResult], cards: Sequence[Card], scale: tuple[float, float]
) -> dict[str, str]:
    labels = sorted(row.label for row in rows) or [0, 1]
    low, high = scale
    defects = map(escape, rows_by_defect(rows))
    return {
        "first": KINDS[labels[0]],
        "last": KINDS[labels[-1]],
        "low": shown_number(low),
        "high": shown_number(high),
        "colours": _css_colours(),
        "choices": elements("option", defects),
        "count": str(len(rows)),
        "cards": "".join(card.figure for card in cards),
        "layers": "".join(card.layers for card in cards),
    }


def _css_colours() -> str:
    """Returns the colours of heat maps as stops of a CSS gradient."""
    bar = pictures.translucent(pictures.COLOURS[None].astype(np.uint8))
    return ", ".join(f"rgb({r} {g} {b} / {a / 255:.2f})" for r, g, b, a in bar[0].tolist())


def _facts_list(facts: Mapping[str, str]) -> str:
    return "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items()
    )
