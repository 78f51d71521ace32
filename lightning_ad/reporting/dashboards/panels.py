"""Panels, curves and histograms as pixels, for dashboards that take pictures only."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from lightning_ad.reporting.charts import Axis
from lightning_ad.reporting.dashboards.base import PlottedLine, ScoredImage
from lightning_ad.reporting.pictures import (
    Picture,
    draw_outline,
    heat,
    overlay,
    thumbnail,
    thumbnail_mask,
)

SIDE = 256  # pixels of a picture's longer side
GAP = 4  # between the two pictures of a panel
TITLE = 18  # pixels of the line above them
WIDTH = 420  # pixels of a chart
HEIGHT = 300
EDGE = 48  # pixels left of and below the plot area of a chart
TOP = 26  # pixels above it
RIGHT = 12
COLOUR = "#c2410c"
GRID = "#ddd"


def panel(image: ScoredImage, low: float, high: float) -> Picture:
    """Draws image and heat map side by side, the defect outlined in both, under score and name.

    The colours of the heat map start at `low` and end at `high`.
    """
    left = thumbnail(image.image, SIDE)
    height, width = left.shape[:2]
    map = Image.fromarray(image.map).resize((width, height), Image.Resampling.BILINEAR)
    right = overlay(left, heat(np.asarray(map), low, high))
    truth = thumbnail_mask(image.truth, height, width)
    left = draw_outline(left, truth)
    right = draw_outline(right, truth)
    drawn = Image.new("RGB", (2 * width + GAP, height + TITLE), "white")
    title = f"{image.score:#.4g}  {image.name}"
    font = ImageFont.load_default(12)
    ImageDraw.Draw(drawn).text((3, 2), title, "black", font)
    drawn.paste(Image.fromarray(left), (0, TITLE))
    drawn.paste(Image.fromarray(right), (width + GAP, TITLE))
    return np.asarray(drawn)


def drawn_curve(name: str, line: PlottedLine) -> Picture:
    """Draws a line through points with axes, their numbers and their names."""
    across = Axis.fit([0, *line.x])
    up = Axis(0.0, max([1.0, *line.y]), line.y_label)
    chart = _chart(name, across, up, line.x_label)
    points = list(zip(_lefts(across, line.x), _tops(up, line.y), strict=True))
    if len(points) > 1:
        ImageDraw.Draw(chart).line(points, COLOUR, 2)
    return np.asarray(chart)


def drawn_histogram(name: str, values: NDArray[np.float32], bins: int = 40) -> Picture:
    """Draws the histogram of some values as bars."""
    across = Axis.fit(values)
    edges = across.edges(bins)
    counts, _ = np.histogram(values, edges)
    up = Axis(0.0, float(max(1, counts.max())), "count")
    chart = _chart(name, across, up)
    sides = _lefts(across, edges)
    for number, top in enumerate(_tops(up, counts)):
        left = sides[number]
        right = max(left, sides[number + 1] - 1)
        ImageDraw.Draw(chart).rectangle((left, top, right, HEIGHT - EDGE), COLOUR)
    return np.asarray(chart)


def _lefts(axis: Axis, values: ArrayLike) -> list[float]:
    """Returns the places of values along the x axis of a chart, in pixels from the left."""
    share = np.nan_to_num(axis.place(values))
    return (EDGE + share * (WIDTH - EDGE - RIGHT)).tolist()


def _tops(axis: Axis, values: ArrayLike) -> list[float]:
    """Returns the places of values along the y axis of a chart, in pixels from the top."""
    share = np.nan_to_num(axis.place(values))
    return (HEIGHT - EDGE - share * (HEIGHT - EDGE - TOP)).tolist()


def _chart(name: str, x: Axis, y: Axis, x_label: str = "") -> Image.Image:
    """Draws a chart without content: grid, numbers and names."""
    chart = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(chart)
    bottom = HEIGHT - EDGE
    small = ImageFont.load_default(11)
    for value in x.ticks():
        (left,) = _lefts(x, [value])
        draw.line((left, TOP, left, bottom), GRID)
        draw.text((left, bottom + 4), f"{value:.6g}", "black", small, "ma")
    for value in y.ticks():
        (top,) = _tops(y, [value])
        draw.line((EDGE, top, WIDTH - RIGHT, top), GRID)
        draw.text((EDGE - 5, top), f"{value:.6g}", "black", small, "rm")
    draw.text((EDGE, 5), f"{name}: {y.label}", "black", ImageFont.load_default(13))
    draw.text((WIDTH / 2, HEIGHT - 20), x_label, "black", small, "ma")
    return chart
