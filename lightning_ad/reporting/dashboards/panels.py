"""Panels, curves and histograms as pixels, for dashboards that take pictures only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lightning_ad.reporting.charts import Axis
from lightning_ad.reporting.dashboards.base import Scene
from lightning_ad.reporting.pictures import (
    Picture,
    draw_outline,
    heat,
    overlay,
    thumbnail,
    thumbnail_mask,
)

SIDE = 256  # pixels of a picture's longer side
TITLE = 18  # of the line above it
WIDTH, HEIGHT, EDGE = 420, 300, 48  # of a chart


def colours(scenes: Sequence[Scene]) -> tuple[float, float]:
    """Where the colours of heat maps begin and end: the median pixel of good images, and the median of the highest
    ones of anomalous images; where one kind is missing, the other stands in."""
    kinds = [scene.truth.any() for scene in scenes]
    ordinary = [
        scene.map.ravel() for scene, bad in zip(scenes, kinds, strict=True) if bad == min(kinds)
    ]
    highest = [
        scene.map.max() for scene, bad in zip(scenes, kinds, strict=True) if bad == max(kinds)
    ]
    low, high = float(np.median(np.concatenate(ordinary))), float(np.median(highest))
    return low, high if high > low else low + 1.0


def panel(scene: Scene, low: float, high: float) -> Picture:
    """Image and heat map between `low` and `high`, the defect outlined in both, under a line with name and score."""
    image = thumbnail(scene.image, SIDE)
    height, width = image.shape[:2]
    level = np.asarray(
        Image.fromarray(scene.map).resize((width, height), Image.Resampling.BILINEAR)
    )
    truth = thumbnail_mask(scene.truth, height, width)
    pair = [draw_outline(one, truth) for one in (image, overlay(image, heat(level, low, high)))]
    drawn = Image.new("RGB", (2 * width + 4, height + TITLE), "white")
    ImageDraw.Draw(drawn).text(
        (3, 2), f"{scene.score:#.4g}  {scene.name}", "black", ImageFont.load_default(12)
    )
    for place, picture in enumerate(pair):
        drawn.paste(Image.fromarray(picture), (place * (width + 4), TITLE))
    return np.asarray(drawn)


def drawn_curve(
    name: str, x: Sequence[float], y: Sequence[float], labels: tuple[str, str]
) -> Picture:
    """A line through points with axes, their numbers and their names."""
    across, up = Axis.fit([0, *x]), Axis(0.0, max(1.0, *y) if y else 1.0)
    chart, points = (
        _chart(name, across, up, labels),
        list(zip(*_places(across, up, x, y), strict=True)),
    )
    if len(points) > 1:
        ImageDraw.Draw(chart).line(points, "#c2410c", 2)
    return np.asarray(chart)


def drawn_histogram(name: str, values: NDArray[np.float32], bins: int = 40) -> Picture:
    """Bars of how many values lie where."""
    across = Axis.fit(values)
    edges = across.edges(bins)
    counts, _ = np.histogram(values, edges)
    up = Axis(0.0, float(max(1, counts.max())))
    chart = _chart(name, across, up, ("", "count"))
    sides, tops = _places(across, up, edges, [*counts.astype(float), 0.0])
    for left, right, top in zip(sides, sides[1:], tops, strict=False):
        ImageDraw.Draw(chart).rectangle((left, top, max(left, right - 1), HEIGHT - EDGE), "#c2410c")
    return np.asarray(chart)


def _places(
    x: Axis, y: Axis, xs: Sequence[float] | NDArray, ys: Sequence[float]
) -> tuple[list[float], list[float]]:
    across, up = np.nan_to_num(x.place(xs)), np.nan_to_num(y.place(ys))
    return (EDGE + across * (WIDTH - EDGE - 12)).tolist(), (
        HEIGHT - EDGE - up * (HEIGHT - EDGE - 26)
    ).tolist()


def _chart(name: str, x: Axis, y: Axis, labels: tuple[str, str]) -> Image.Image:
    chart = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, small = ImageDraw.Draw(chart), ImageFont.load_default(11)
    for value, at in zip(x.ticks(), _places(x, y, x.ticks(), [0.0])[0], strict=True):
        draw.line((at, 26, at, HEIGHT - EDGE), "#ddd")
        draw.text((at, HEIGHT - EDGE + 4), f"{value:.6g}", "black", small, "ma")
    for value, at in zip(y.ticks(), _places(x, y, [x.low], y.ticks())[1], strict=True):
        draw.line((EDGE, at, WIDTH - 12, at), "#ddd")
        draw.text((EDGE - 5, at), f"{value:.6g}", "black", small, "rm")
    draw.text((EDGE, 5), f"{name}: {labels[1]}", "black", ImageFont.load_default(13))
    draw.text((WIDTH / 2, HEIGHT - 20), labels[0], "black", small, "ma")
    return chart
