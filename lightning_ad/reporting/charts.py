"""Charts as SVG."""

from dataclasses import dataclass
from html import escape
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Axis:
    """One axis of a chart, from `low` to `high`."""

    low: float
    high: float
    label: str = ""
    log: bool = False

    @classmethod
    def fit(cls, values: ArrayLike, label: str = "") -> Self:
        """Shows all finite `values`; logarithmic where they are positive and span a factor of 100."""
        values = np.asarray(values, np.float64)
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        if low > 0 and high > 100 * low:
            return cls(low, high, f"{label} (log scale)", log=True)
        return cls(low, high if high > low else low + (abs(low) or 1.0), label)

    def place(self, values: ArrayLike) -> NDArray[np.float64]:
        """Where `values` lie: 0 at `low`, 1 at `high`."""
        values = np.asarray(values, np.float64)
        if self.log:
            return np.log(values / self.low) / np.log(self.high / self.low)
        return (values - self.low) / (self.high - self.low)

    def edges(self, bins: int) -> NDArray[np.float64]:
        """The `bins` + 1 limits of bins that look equally wide."""
        return (np.geomspace if self.log else np.linspace)(self.low, self.high, bins + 1)

    def ticks(self) -> list[float]:
        """A few round numbers within the axis."""
        if self.log:
            decades = range(
                int(np.ceil(np.log10(self.low))), int(np.floor(np.log10(self.high))) + 1
            )
            return [10.0**d for d in decades[:: 1 + len(decades) // 6]]
        rough = (self.high - self.low) / 6
        power = 10.0 ** np.floor(np.log10(rough))
        step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.99)
        first, last = int(np.ceil(self.low / step - 1e-9)), int(np.floor(self.high / step + 1e-9))
        return [float(step * k) for k in range(first, last + 1)]


def chart(
    x: Axis,
    y: Axis,
    content: str,
    width: int = 280,
    height: int = 210,
    notes: dict[str, float] | None = None,
) -> str:
    """An SVG chart of `content`, which is drawn in unit coordinates; `notes` are marked on the x axis."""
    left, top, right, bottom = 44, 16, 10, 38 if x.label else 20
    inner_width, inner_height = width - left - right, height - top - bottom
    lines, texts = [], []

    def write(text: str, x: float, y: float, kind: str, turn: str = "") -> None:
        texts.append(
            f'<text transform="translate({x:.1f} {y:.1f}){turn}" class="{kind}">{escape(text)}</text>'
        )

    for value, share in zip(x.ticks(), x.place(x.ticks()), strict=True):
        lines.append(f"M{share:.4f} 0V1")
        write(f"{value:.10g}", left + share * inner_width, height - bottom + 14, "mid")
    for value, share in zip(y.ticks(), 1 - y.place(y.ticks()), strict=True):
        lines.append(f"M0 {share:.4f}H1")
        write(f"{value:.10g}", left - 5, top + share * inner_height + 4, "end")
    for note, value in (notes or {}).items():
        share = float(x.place(value))
        content += f'<path class="mark" d="M{share:.4f} 0V1"/>'
        side = "end" if share > 0.8 else "mid" if share > 0.2 or len(note) < 6 else ""
        write(note, left + share * inner_width, top - 5, f"note {side}")
    write(x.label, left + inner_width / 2, height - 5, "mid name")
    write(y.label, 10, top + inner_height / 2, "mid name", " rotate(-90)")
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}"><svg x="{left}" y="{top}" width="{inner_width}"'
        f' height="{inner_height}" viewBox="0 0 1 1" preserveAspectRatio="none">'
        f'<path class="grid" d="{"".join(lines)}"/>{content}</svg>{"".join(texts)}</svg>'
    )


def curve(x: Axis, y: Axis, xs: ArrayLike, ys: ArrayLike, columns: int = 300) -> str:
    """The line through (`xs`, `ys`) as content of a `chart`.

    Of the points that fall on one of `columns` columns in a row, the first, last, lowest and highest remain.
    """
    across, up = np.broadcast_arrays(x.place(xs), y.place(ys))
    known = np.isfinite(across) & np.isfinite(up)
    across, up = across[known], up[known]
    column = np.floor(across * columns)
    groups = (
        np.split(np.arange(len(across)), np.flatnonzero(np.diff(column)) + 1) if len(across) else []
    )
    keep = [i for g in groups for i in sorted({g[0], g[up[g].argmin()], g[up[g].argmax()], g[-1]})]
    points = " ".join(f"{across[i]:.4f},{1 - up[i]:.4f}" for i in keep)
    return f'<polyline class="curve" points="{points}"/>'


def bars(x: Axis, y: Axis, edges: NDArray[np.float64], counts: NDArray[np.int64], kind: str) -> str:
    """The bars of a histogram as content of a `chart`, CSS class `kind`; even a count of one can be seen."""
    sides, heights = x.place(edges), np.maximum(y.place(counts), 0.015)
    return "".join(
        f'<rect class="{kind}" x="{sides[i]:.4f}" width="{(sides[i + 1] - sides[i]) * 0.94:.4f}"'
        f' y="{1 - heights[i]:.4f}" height="{heights[i]:.4f}">'
        f"<title>{counts[i]} {kind}, score {edges[i]:.4g} to {edges[i + 1]:.4g}</title></rect>"
        for i in np.flatnonzero(counts)
    )
