"""The curves of a report: those of the test, and what was logged in training."""

from collections.abc import Mapping
from html import escape

from lightning_ad.evaluation.catalogue import PLOTS, Plot
from lightning_ad.reporting import charts
from lightning_ad.reporting.charts import Axis
from lightning_ad.reporting.run_results import Line

CAPTIONS = {
    "image ROC": (
        "Share of anomalous images found (true positive rate) against the share of good images"
        " called anomalous (false positive rate), for every threshold."
    ),
    "image precision-recall": (
        "Share of alarms that are true (precision) against the share of anomalous images found"
        " (recall)."
    ),
    "pixel ROC": "As image ROC, counted in pixels.",
    "pixel precision-recall": "As image precision-recall, counted in pixels.",
    "pixel PRO": (
        "Mean share of each defect covered (per-region overlap) against the share of good pixels"
        " marked. AUPRO is the area up to a dashed limit, divided by the limit."
    ),
}
AUPRO_LIMITS = {"0.05": 0.05, "0.30": 0.3}
WHOLE = (-0.015, 1.015)  # of an axis of shares
UP_TO_LIMITS = (-0.005, 0.35)


def curve_figures(plots: Mapping[str, Line]) -> str:
    """Draws a figure for each plot of the catalogue."""
    figures = []
    for name, plot in PLOTS.items():
        xs, ys = plots.get(name, ([], []))
        drawn = '<p class="none">not computed</p>'
        if len(xs):
            drawn = _test_chart(name, plot, (xs, ys))
        heading = name[0].upper() + name[1:]
        caption = f"<figcaption>{CAPTIONS[name]}</figcaption>" if name in CAPTIONS else ""
        figures.append(f"<figure><h3>{escape(heading)}</h3>{drawn}{caption}</figure>")
    return "".join(figures)


def _test_chart(name: str, plot: Plot, line: Line) -> str:
    x = Axis(*WHOLE, plot.x)
    y = Axis(*WHOLE, plot.y)
    notes = {}
    if name == "pixel PRO":
        x = Axis(*UP_TO_LIMITS, plot.x)
        notes = AUPRO_LIMITS
    return charts.chart(x, y, charts.curve(x, y, *line), notes=notes)


def training_section(training: Mapping[str, Line]) -> str:
    """Draws a chart for each quantity with two values or more; empty if there is none."""
    figures = []
    for name, (steps, values) in training.items():
        if len(steps) > 1:
            x = Axis.fit([0, *steps], "step")
            y = Axis.fit(values)
            drawn = charts.chart(x, y, charts.curve(x, y, steps, values))
            figures.append(f"<figure><h3>{escape(name)}</h3>{drawn}</figure>")
    if not figures:
        return ""
    return f'<section><h2>Training</h2><div class="curves">{"".join(figures)}</div></section>'
