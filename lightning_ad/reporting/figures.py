"""Pictures of scores: heat maps, outlines and thumbnails as arrays, charts as SVG text. Pure functions."""

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Plasma from 0.3 to 1, perceptually uniform; without its dark blues, which a dark grey part would swallow.
COLOURS = np.array(
    [
        [143, 13, 164], [177, 42, 144], [204, 71, 120], [225, 100, 98],
        [242, 132, 75], [252, 166, 54], [252, 206, 37], [240, 249, 33],
    ]
)  # fmt: skip


_TABLE = np.stack([np.interp(np.linspace(0, 7, 256), range(8), c).round() for c in COLOURS.T], -1).astype(np.uint8)


def heat(map: Tensor | NDArray[np.float32], low: float, high: float) -> Picture:
    """The colours of `map` [H, W] between `low` and `high`, clamped outside: uint8 [H, W, 3]."""
    level = np.clip((np.asarray(map, np.float32) - low) / max(high - low, 1e-12), 0, 1)
    return _TABLE[(level * 255).round().astype(np.uint8)]


def opacity(heat: Picture) -> NDArray[np.float64]:
    """How much a colour [H, W, 3] of `heat` hides: [H, W] in [0, 1], 0 for the lowest scores.

    It is read off the red channel, which rises with the score until the heat hides all it may.
    """
    level = np.clip((heat[..., 0] - 143.0) / (235.0 - 143.0), 0, 1)
    return level * level * (3 - 2 * level)


def overlay(image: Picture, heat: Picture, strength: float = 0.6) -> Picture:
    """`heat` over `image` (both uint8 [H, W, 3]); low scores leave the part visible. `strength` in [0, 1]."""
    share = strength * opacity(heat)[..., None]
    return (image * (1 - share) + heat * share).round().astype(np.uint8)


def translucent(heat: Picture, strength: float = 0.6) -> Picture:
    """`heat` as a layer of its own, uint8 [H, W, 4]: laid over an image it gives `overlay`."""
    alpha = (255 * strength * opacity(heat)).round().astype(np.uint8)
    return np.concatenate([heat, alpha[..., None]], -1)


def outline(mask: Mask) -> Mask:
    """The pixels just outside `mask` [H, W], and those of its own at the image's edge: bool [H, W]."""
    height, width = mask.shape
    padded = np.pad(mask, 1)
    grown = np.zeros_like(mask)
    for y in range(3):
        for x in range(3):
            grown |= padded[y : y + height, x : x + width]
    edge = np.ones_like(mask)
    edge[1:-1, 1:-1] = False
    return grown & (~mask | edge)


def draw_outline(image: Picture, mask: Mask, colour: tuple[int, int, int] = (0, 255, 255)) -> Picture:
    """A copy of `image` [H, W, 3] with the outline of `mask` [H, W] drawn in."""
    drawn = image.copy()
    drawn[outline(mask)] = colour
    return drawn


def hatch(image: Picture, mask: Mask, stride: int = 8) -> Picture:
    """A copy of `image` [H, W, 3], fainter and with diagonal lines `stride` pixels apart where `mask` [H, W] is."""
    row, column = np.indices(mask.shape)
    drawn = np.where(mask[..., None], image // 2 + 64, image)
    drawn[mask & ((row + column) % stride == 0)] = 40
    return drawn


def outline_path(mask: Mask) -> str:
    """The border of `mask` [H, W] as SVG path data, one unit a pixel; empty where the mask is."""
    rows = np.diff(np.pad(mask, 1).astype(np.int8), axis=0)[:, 1:-1]  # [H + 1, W], not 0 between unlike pixels
    columns = np.diff(np.pad(mask, 1).astype(np.int8), axis=1)[1:-1].T
    across = [f"M{start} {line}h{end - start}" for line, start, end in _runs(rows != 0)]
    down = [f"M{line} {start}v{end - start}" for line, start, end in _runs(columns != 0)]
    return "".join(across + down)


def _runs(edges: Mask) -> list[tuple[int, int, int]]:
    change = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (lines, starts), (_, ends) = np.nonzero(change == 1), np.nonzero(change == -1)
    return list(zip(lines.tolist(), starts.tolist(), ends.tolist(), strict=True))


def thumbnail(image: Picture, side: int) -> Picture:
    """`image` [H, W, C], made smaller until its longer side is at most `side`."""
    shrink = min(1.0, side / max(image.shape[:2]))
    size = [max(1, round(n * shrink)) for n in image.shape[:2]]
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS))


def thumbnail_mask(mask: Mask, height: int, width: int) -> Mask:
    """`mask` at [height, width]; a pixel is true if any part of it was, so that thin cracks survive."""
    shares = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(shares) > 0


def data_uri(image: Picture, format: Literal["jpeg", "webp", "png"] = "webp", quality: int = 75) -> str:
    """`image` [H, W, 3], or [H, W, 4] with opacity (not in JPEG), as text that an `src` takes."""
    file = io.BytesIO()
    options = {"webp": {"alpha_quality": 50, "method": 2}}.get(format, {})
    Image.fromarray(image).save(file, format=format, quality=quality, **options)
    return f"data:image/{format};base64,{base64.b64encode(file.getvalue()).decode()}"


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
            decades = range(int(np.ceil(np.log10(self.low))), int(np.floor(np.log10(self.high))) + 1)
            return [10.0**d for d in decades[:: 1 + len(decades) // 6]]
        rough = (self.high - self.low) / 6
        power = 10.0 ** np.floor(np.log10(rough))
        step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.99)
        first, last = int(np.ceil(self.low / step - 1e-9)), int(np.floor(self.high / step + 1e-9))
        return [float(step * k) for k in range(first, last + 1)]


def chart(
    x: Axis, y: Axis, content: str, width: int = 280, height: int = 210, notes: dict[str, float] | None = None
) -> str:
    """An SVG chart of `content`, which is drawn in unit coordinates; `notes` are marked on the x axis."""
    left, top, right, bottom = 44, 16, 10, 38 if x.label else 20
    inner_width, inner_height = width - left - right, height - top - bottom
    lines, texts = [], []

    def write(text: str, x: float, y: float, kind: str, turn: str = "") -> None:
        texts.append(f'<text transform="translate({x:.1f} {y:.1f}){turn}" class="{kind}">{escape(text)}</text>')

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
    groups = np.split(np.arange(len(across)), np.flatnonzero(np.diff(column)) + 1) if len(across) else []
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
