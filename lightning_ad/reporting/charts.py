"""Charts as SVG text. Pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
LEFT = 44  # pixels between the edge of a chart and its plot area
TOP = 16
RIGHT = 10
BOTTOM = 20
X_LABEL = 18  # pixels that the x axis's label takes
NO_NOTES: Mapping[str, float] = MappingProxyType({})
LEAST_BAR = 0.015  # of the plot's height, so that a count of one can be seen


@dataclass(frozen=True)
class Axis:
    """One axis of a chart, from `low` to `high`."""

    low: float
    high: float
    label: str = ""
    log: bool = False

    @classmethod
    def fit(cls, values: ArrayLike, label: str = "") -> Self:
        """Spans all finite `values`; logarithmic if they are positive and span a factor of 100."""
        values = np.asarray(values, np.float64)
        finite = values[np.isfinite(values)]
        if not len(finite):
            return cls(0.0, 1.0, label)
        low = float(finite.min())
        high = float(finite.max())
        if low > 0 and high > 100 * low:
            return cls(low, high, f"{label} (log scale)", log=True)
        if high == low:
            high = low + (abs(low) or 1.0)
        return cls(low, high, label)

    def place(self, values: ArrayLike) -> Values:
        """Returns the positions of `values` along the axis: 0 at `low`, 1 at `high`."""
        values = np.asarray(values, np.float64)
        if self.log:
            return np.log(values / self.low) / np.log(self.high / self.low)
        return (values - self.low) / (self.high - self.low)

    def edges(self, bins: int) -> Values:
        """Returns the `bins` + 1 limits of bins that look equally wide."""
        spaced = np.geomspace if self.log else np.linspace
        return spaced(self.low, self.high, bins + 1)

    def ticks(self) -> list[float]:
        """Returns a few round numbers within the axis."""
        if self.log:
            return _powers_of_ten(self.low, self.high)
        step = _round_step((self.high - self.low) / 6)
        first = int(np.ceil(self.low / step - 1e-9))
        last = int(np.floor(self.high / step + 1e-9))
        return [float(step * k) for k in range(first, last + 1)]

    def placed_ticks(self) -> list[tuple[float, float]]:
        """Returns the ticks with their positions along the axis, in [0, 1]."""
        ticks = self.ticks()
        return list(zip(ticks, self.place(ticks).tolist(), strict=True))


def _powers_of_ten(low: float, high: float) -> list[float]:
    first = int(np.ceil(np.log10(low)))
    last = int(np.floor(np.log10(high)))
    powers = range(first, last + 1)
    every = 1 + len(powers) // 6
    return [10.0**power for power in powers[::every]]


def _round_step(rough: float) -> float:
    """Returns the smallest of 1, 2, 5 and 10 times a power of ten that is about `rough` or more."""
    power = 10.0 ** np.floor(np.log10(rough))
    for factor in (1, 2, 5):
        if power * factor >= rough * 0.99:
            return power * factor
    return power * 10


def chart(
    x: Axis,
    y: Axis,
    content: str,
    width: int = 280,
    height: int = 210,
    notes: Mapping[str, float] = NO_NOTES,
) -> str:
    """Draws an SVG chart of `content`, which is in unit coordinates.

    `notes` are texts with a dashed line, by their place on the x axis.
    """
    frame = _Frame(x, y, width, height)
    texts = [
        *frame.tick_labels(),
        *frame.note_labels(notes),
        _text(x.label, LEFT + frame.plot_width / 2, height - 5, "mid name"),
        _text(y.label, 10, TOP + frame.plot_height / 2, "mid name", " rotate(-90)"),
    ]
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}"><svg x="{LEFT}" y="{TOP}"'
        f' width="{frame.plot_width}" height="{frame.plot_height}" viewBox="0 0 1 1"'
        f' preserveAspectRatio="none"><path class="grid" d="{frame.grid()}"/>{content}'
        f"{frame.note_lines(notes)}</svg>{''.join(texts)}</svg>"
    )


@dataclass(frozen=True)
class _Frame:
    """The axes of a chart of `width` x `height` pixels, and what is written around them."""

    x: Axis
    y: Axis
    width: int
    height: int

    @property
    def plot_width(self) -> int:
        return self.width - LEFT - RIGHT

    @property
    def plot_height(self) -> int:
        below = BOTTOM
        if self.x.label:
            below += X_LABEL
        return self.height - TOP - below

    def left(self, share: float) -> float:
        """Returns the pixels from the left edge of the chart to a place along the x axis."""
        return LEFT + share * self.plot_width

    def grid(self) -> str:
        """Draws a line at each tick of both axes, as path data in unit coordinates."""
        lines = []
        for _, share in self.x.placed_ticks():
            lines.append(f"M{share:.4f} 0V1")
        for _, share in self.y.placed_ticks():
            lines.append(f"M0 {1 - share:.4f}H1")
        return "".join(lines)

    def tick_labels(self) -> list[str]:
        texts = []
        below = TOP + self.plot_height + 14
        for value, share in self.x.placed_ticks():
            texts.append(_text(f"{value:.10g}", self.left(share), below, "mid"))
        for value, share in self.y.placed_ticks():
            top = TOP + (1 - share) * self.plot_height
            texts.append(_text(f"{value:.10g}", LEFT - 5, top + 4, "end"))
        return texts

    def note_lines(self, notes: Mapping[str, float]) -> str:
        lines = []
        for value in notes.values():
            share = float(self.x.place(value))
            lines.append(f'<path class="mark" d="M{share:.4f} 0V1"/>')
        return "".join(lines)

    def note_labels(self, notes: Mapping[str, float]) -> list[str]:
        texts = []
        for note, value in notes.items():
            share = float(self.x.place(value))
            kind = f"note {_note_side(note, share)}"
            texts.append(_text(note, self.left(share), TOP - 5, kind))
        return texts


def _note_side(note: str, share: float) -> str:
    """Returns the CSS class that keeps a note in the chart: which part of it is at its line."""
    if share > 0.8:
        return "end"
    if share > 0.2 or len(note) < 6:
        return "mid"
    return ""


def _text(text: str, x: float, y: float, kind: str, turn: str = "") -> str:
    place = f"translate({x:.1f} {y:.1f}){turn}"
    return f'<text transform="{place}" class="{kind}">{escape(text)}</text>'


def curve(x: Axis, y: Axis, xs: ArrayLike, ys: ArrayLike, columns: int = 300) -> str:
    """Draws the line through (`xs`, `ys`) as content of a `chart`.

    Of the points that fall on one of `columns` columns in a row, the first, last, lowest and
    highest remain.
    """
    across, up = np.broadcast_arrays(x.place(xs), y.place(ys))
    known = np.isfinite(across) & np.isfinite(up)
    across = across[known]
    up = up[known]
    if not len(across):
        return '<polyline class="curve" points=""/>'
    column = np.floor(across * columns)
    starts = np.flatnonzero(np.diff(column)) + 1
    points = []
    for group in np.split(np.arange(len(across)), starts):
        values = up[group]
        kept = {0, int(values.argmin()), int(values.argmax()), len(group) - 1}
        for i in group[sorted(kept)]:
            points.append(f"{across[i]:.4f},{1 - up[i]:.4f}")
    return f'<polyline class="curve" points="{" ".join(points)}"/>'


def bars(x: Axis, y: Axis, edges: Values, counts: NDArray[np.int64], kind: str) -> str:
    """Draws the bars of a histogram as content of a `chart`, with CSS class `kind`.

    Args:
        x: the axis of values.
        y: the axis of counts.
        edges: [N + 1], the limits of the bins.
        counts: [N], how many values are in each bin; empty bins have no bar.
        kind: the CSS class.
    """
    sides = x.place(edges)
    heights = np.maximum(y.place(counts), LEAST_BAR)
    drawn = []
    for i in np.flatnonzero(counts):
        width = (sides[i + 1] - sides[i]) * 0.94
        title = f"{counts[i]} {kind}, score {edges[i]:.4g} to {edges[i + 1]:.4g}"
        drawn.append(
            f'<rect class="{kind}" x="{sides[i]:.4f}" width="{width:.4f}"'
            f' y="{1 - heights[i]:.4f}" height="{heights[i]:.4f}"><title>{title}</title></rect>'
        )
    return "".join(drawn)
