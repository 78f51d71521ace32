"""index.html: the table of a benchmark, and accuracy against cost in plots for each data set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from types import MappingProxyType
from urllib.parse import quote

from lightning_ad.commands.benchmark.table import COSTS, MEAN, Estimate, Row, Table
from lightning_ad.commands.benchmark.writing import PLACE, notes, shown_costs, shown_metrics
from lightning_ad.reporting.charts import Axis
from lightning_ad.system.files import replacing

ACCURACY = {"image_AUROC": "image AUROC", "pixel_AUPRO_0.30": "AUPRO 0.30"}
PLOTTED_COSTS = ("images_per_second", "fit_seconds")
WIDTH = 520  # pixels of a plot, and what is around its axes
HEIGHT = 300
LEFT = 52
RIGHT = 110
TOP = 14
BOTTOM = 44
LINE = 12  # pixels that a label takes, so that labels do not lie over each other
SPREAD = 0.01  # around a metric without an interval, on its axis
NO_REPORTS: Mapping[str, Path] = MappingProxyType({})


def write_page(
    path: Path, title: str, table: Table, reports: Mapping[str, Path] = NO_REPORTS
) -> None:
    """Writes the page as one file that loads nothing from elsewhere.

    Args:
        path: of the page.
        title: of the page.
        table: what it shows.
        reports: the page of each cell's run, by the cell's name, relative to this one.
    """
    published = [not row.runs for row in table.rows]
    template = Template(Path(__file__).with_name("page.html.template").read_text(encoding="utf-8"))
    text = template.substitute(
        title=escape(title),
        plots="".join(_figures(table.rows)),
        metrics=_html_table(shown_metrics(table.rows), published),
        costs=_html_table(shown_costs(table.rows)),
        notes=_items(notes(table)),
        environment=_items(table.environment),
        reports="".join(map(_report_link, reports, reports.values())),
    )
    with replacing(path, errors="xmlcharrefreplace") as file:
        file.write(text)


def _items(lines: Sequence[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def _report_link(name: str, path: Path) -> str:
    return f'<li><a href="{quote(str(path))}">{escape(name)}</a></li>'


def _html_table(lines: Sequence[Sequence[str]], published: Sequence[bool] = ()) -> str:
    """Returns a table; lines that are `published` are shown as such."""
    header, *rest = lines
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = ""
    for number, line in enumerate(rest):
        kind = ""
        if published and published[number]:
            kind = ' class="published"'
        body += f"<tr{kind}>{''.join(map(_html_cell, range(len(line)), line))}</tr>"
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _html_cell(column: int, text: str) -> str:
    kind = " class=place" if column < len(PLACE) else ""
    return f"<td{kind}>{escape(text)}</td>"


def _figures(rows: Sequence[Row]) -> Iterator[str]:
    """Yields the plots of each data set: of its mean over categories, or of all its rows."""
    measured: dict[str, list[Row]] = {}
    for row in rows:
        if row.runs:
            measured.setdefault(row.data, []).append(row)
    for data, own in measured.items():
        means = [row for row in own if row.category == MEAN]
        if means:
            yield from _accuracy_against_cost(f"{data}, mean of its categories", means)
        else:
            yield from _accuracy_against_cost(data, own)


def _accuracy_against_cost(title: str, rows: Sequence[Row]) -> Iterator[str]:
    for metric in ACCURACY:
        shown = [row for row in rows if metric in row.metrics]
        if not shown:
            continue
        for cost in PLOTTED_COSTS:
            plot = _scatter_plot(_points(shown, metric, cost), ACCURACY[metric], COSTS[cost])
            yield f"<figure><h3>{escape(title)}</h3>{plot}</figure>"


@dataclass(frozen=True)
class _Point:
    """A row of the table in a plot."""

    name: str
    cost: float
    metric: Estimate

    def ends(self, spread: float) -> tuple[float, float]:
        """Returns the interval of the metric; `spread` to both sides if it has none."""
        half = self.metric.half or spread
        return self.metric.mean - half, self.metric.mean + half


def _points(rows: Sequence[Row], metric: str, cost: str) -> list[_Point]:
    """Returns the rows as points, the most accurate first."""
    several = len({row.category for row in rows}) > 1
    points: list[_Point] = []
    for row in rows:
        name = f"{row.configuration} {row.category}" if several else row.configuration
        points.append(_Point(name, row.costs[cost], row.metrics[metric]))
    return sorted(points, key=lambda point: -point.metric.mean)


@dataclass(frozen=True)
class _Plane:
    """The axes of a plot in pixels."""

    x: Axis
    y: Axis
    width: int = WIDTH - LEFT - RIGHT
    height: int = HEIGHT - TOP - BOTTOM

    @classmethod
    def around(cls, points: Sequence[_Point], x_label: str, y_label: str) -> "_Plane":
        """Returns axes that hold all points and their intervals."""
        costs: list[float] = []
        metrics: list[float] = []
        for point in points:
            costs += [0.8 * point.cost, 1.25 * point.cost]
            metrics += [_limited(end, 0.0, 1.0) for end in point.ends(SPREAD)]
        return cls(Axis.fit(costs, x_label), Axis.fit(metrics, y_label))

    def across(self, value: float) -> float:
        return LEFT + float(self.x.place(value)) * self.width

    def up(self, value: float) -> float:
        """Returns the height of a metric; one beyond the axis is drawn at its end."""
        value = _limited(value, self.y.low, self.y.high)
        return TOP + (1 - float(self.y.place(value))) * self.height


def _scatter_plot(points: Sequence[_Point], metric: str, cost: str) -> str:
    """Returns an SVG with a named point and its interval over seeds for each row."""
    plane = _Plane.around(points, cost, metric)
    parts = [*_grid(plane)]
    labels: list[float] = []  # heights that are taken
    for point in points:
        across = plane.across(point.cost)
        height = plane.up(point.metric.mean)
        low, high = (plane.up(end) for end in point.ends(0.0))
        tooltip = f"<title>{escape(point.name)}: {point.metric.mean:.4f}</title>"
        label = _free_height(height + 4, labels)
        labels.append(label)
        parts += [
            f'<path class="interval" d="M{across:.1f} {low:.1f}V{high:.1f}"/>',
            f'<circle cx="{across:.1f}" cy="{height:.1f}" r="4">{tooltip}</circle>',
            _text(point.name, across + 8, label, "start"),
        ]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'


def _grid(plane: _Plane) -> Iterator[str]:
    """Yields the lines of the grid, and the labels of the axes."""
    for value in plane.x.ticks():
        across = plane.across(value)
        yield f'<path class="grid" d="M{across:.1f} {TOP}v{plane.height}"/>'
        yield _text(f"{value:.10g}", across, TOP + plane.height + 15)
    for value in plane.y.ticks():
        height = plane.up(value)
        yield f'<path class="grid" d="M{LEFT} {height:.1f}h{plane.width}"/>'
        yield _text(f"{value:.10g}", LEFT - 6, height + 4, "end")
    yield _text(plane.x.label, LEFT + plane.width / 2, HEIGHT - 8)
    turned = f"translate(12 {TOP + plane.height / 2:.0f}) rotate(-90)"
    yield f'<text class="mid" transform="{turned}">{escape(plane.y.label)}</text>'


def _free_height(wanted: float, taken: Sequence[float]) -> float:
    """Returns the height at which a label lies over no other, the wanted one or below it."""
    free = wanted
    for height in taken:
        if abs(height - wanted) < LINE:
            free = max(free, height + LINE)
    return free


def _limited(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _text(text: str, x: float, y: float, kind: str = "mid") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
