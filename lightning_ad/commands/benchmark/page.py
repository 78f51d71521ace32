"""index.html: the table of a benchmark, and accuracy against cost in one plot for each data set."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from types import MappingProxyType
from urllib.parse import quote

from lightning_ad.commands.benchmark.table import COSTS, MEAN, Row
from lightning_ad.commands.benchmark.writing import PLACE, notes, shown_costs, shown_metrics
from lightning_ad.reporting.charts import Axis
from lightning_ad.system.files import replacing

ACCURACY = {"image_AUROC": "image AUROC", "pixel_AUPRO_0.30": "AUPRO 0.30"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 300, 52, 110, 14, 44


def write_page(
    path: Path,
    title: str,
    rows: Sequence[Row],
    reservations: Sequence[str],
    circumstances: Sequence[str] = (),
    reports: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Writes the page as one file that loads nothing from elsewhere; `reports` by cell are linked to."""
    plots = []
    for data in dict.fromkeys(row.data for row in rows):
        own = [row for row in rows if row.data == data and row.runs]
        shown = [row for row in own if row.category == MEAN] or own
        of = f"{data}, mean of its categories" if shown[0].category == MEAN else data
        for metric, called in ACCURACY.items():
            for cost in ("images_per_second", "fit_seconds"):
                if any(metric in row.metrics for row in shown):
                    plots.append(
                        f"<figure><h3>{escape(of)}</h3>{_scatter(shown, metric, called, cost)}</figure>"
                    )
    template = Template(Path(__file__).with_name("page.html.template").read_text(encoding="utf-8"))
    text = template.substitute(
        title=escape(title),
        plots="".join(plots),
        metrics=_table(shown_metrics(rows, "±"), [not row.runs for row in rows]),
        costs=_table(shown_costs(rows), []),
        notes="".join(f"<li>{escape(line)}</li>" for line in notes(rows, reservations)),
        circumstances="".join(f"<li>{escape(line)}</li>" for line in circumstances),
        reports="".join(
            f'<li><a href="{quote(str(place))}">{escape(name)}</a></li>'
            for name, place in reports.items()
        ),
    )
    with replacing(path, errors="xmlcharrefreplace") as file:
        file.write(text)


def _table(lines: Sequence[Sequence[str]], published: Sequence[bool]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in lines[0])
    body = []
    for number, line in enumerate(lines[1:]):
        kind = ' class="published"' if published and published[number] else ""
        cells = "".join(
            f"<td{' class=place' if n < len(PLACE) else ''}>{escape(c)}</td>"
            for n, c in enumerate(line)
        )
        body.append(f"<tr{kind}>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _scatter(rows: Sequence[Row], metric: str, called: str, cost: str) -> str:
    """An SVG of one metric against one cost: a named point for each row, with its interval over seeds."""
    points = [(row.costs[cost], row.metrics[metric], row) for row in rows if metric in row.metrics]
    x = Axis.fit([p[0] * f for p in points for f in (0.8, 1.25)], COSTS[cost])
    ends = [p[1].mean + s * (p[1].half or 0.01) for p in points for s in (-1, 1)]
    y = Axis.fit([min(max(end, 0.0), 1.0) for end in ends], called)
    inner, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = []
    for value, share in zip(x.ticks(), x.place(x.ticks()), strict=True):
        at = LEFT + share * inner
        parts.append(
            f'<path class="grid" d="M{at:.1f} {TOP}v{high}"/>{_text(f"{value:.10g}", at, TOP + high + 15)}'
        )
    for value, share in zip(y.ticks(), y.place(y.ticks()), strict=True):
        at = TOP + (1 - share) * high
        parts.append(
            f'<path class="grid" d="M{LEFT} {at:.1f}h{inner}"/>{_text(f"{value:.10g}", LEFT - 6, at + 4, "end")}'
        )
    parts.append(_text(x.label, LEFT + inner / 2, HEIGHT - 8))
    parts.append(
        f'<text class="mid" transform="translate(12 {TOP + high / 2:.0f}) rotate(-90)">{escape(called)}</text>'
    )
    taken: list[float] = []
    for spent, found, row in sorted(points, key=lambda p: -p[1].mean):
        across = LEFT + float(x.place(spent)) * inner
        up = TOP + (1 - float(y.place(found.mean))) * high
        low, top = (
            TOP + (1 - float(y.place(min(max(e, y.low), y.high)))) * high
            for e in _ends(found.mean, found.half)
        )
        named = (
            row.configuration
            if len({r.category for r in rows}) == 1
            else f"{row.configuration} {row.category}"
        )
        label = max([up + 4, *(t + 12 for t in taken if abs(t - up - 4) < 12)])
        taken.append(label)
        parts.append(f'<path class="interval" d="M{across:.1f} {low:.1f}V{top:.1f}"/>')
        parts.append(
            f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4"><title>{escape(named)}: {found.mean:.4f}</title></circle>'
        )
        parts.append(_text(named, across + 8, label, "start"))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'


def _ends(mean: float, half: float | None) -> tuple[float, float]:
    return mean - (half or 0.0), mean + (half or 0.0)


def _text(text: str, x: float, y: float, kind: str = "mid") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
