"""Pictures of scores as arrays: heat maps, outlines and thumbnails. Pure functions."""

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_ad.system.threads import map_single_threaded

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Map = NDArray[np.float32]

# Plasma from 0.3 to 1, perceptually uniform; without its dark blues, which a dark grey part would
# swallow.
COLOURS = np.array(
    [
        [143, 13, 164],
        [177, 42, 144],
        [204, 71, 120],
        [225, 100, 98],
        [242, 132, 75],
        [252, 166, 54],
        [252, 206, 37],
        [240, 249, 33],
    ]
)
LOWEST_RED = 143.0  # of `COLOURS`; from here on the red channel rises with the score
OPAQUE_RED = 235.0  # from here on a heat map hides as much as it may


def _colour_table(levels: int = 256) -> NDArray[np.uint8]:
    """Interpolates `COLOURS` to [levels, 3]."""
    given = range(len(COLOURS))
    wanted = np.linspace(0, len(COLOURS) - 1, levels)
    table = np.empty((levels, 3), np.uint8)
    for channel in range(3):
        values = np.interp(wanted, given, COLOURS[:, channel])
        table[:, channel] = values.round()
    return table


_TABLE = _colour_table()


def as_picture(image: Tensor) -> Picture:
    """Converts `image` float [3, H, W] in [0, 1] to uint8 [H, W, 3]."""
    levels = image.float().mul(255).round().byte()
    return levels.permute(1, 2, 0).cpu().numpy()


def colour_scale(labels: Sequence[int], map_of: Callable[[int], Map]) -> tuple[float, float]:
    """Returns the scores at which the colours of all maps start and end; (0, 1) without maps.

    They start at the median pixel of the good images' maps, so that half of what is good stays
    clear, and end where half of the anomalous images have their highest pixel. If there are images
    of one kind only, they stand in for the other.

    Args:
        labels: 0 (good) or 1 (anomalous) of each map.
        map_of: reads the map [H, W] of a number; called from several threads.
    """
    if not labels:
        return 0.0, 1.0
    starts_from = min(labels)
    ends_at = max(labels)

    def measure(number: int) -> tuple[Map | None, float]:
        map = map_of(number)
        sampled = None
        if labels[number] == starts_from:
            sampled = map[::4, ::4].flatten()
        return sampled, float(map.max())

    pixels = []
    highest = []
    measured = map_single_threaded(measure, range(len(labels)))
    for label, (sampled, top) in zip(labels, measured, strict=True):
        if sampled is not None:
            pixels.append(sampled)
        if label == ends_at:
            highest.append(top)
    low = float(np.median(np.concatenate(pixels)))
    high = float(np.median(highest))
    if high <= low:
        high = low + 1.0
    return low, high


def heat(map: Tensor | Map, low: float, high: float) -> Picture:
    """Colours `map` [H, W] between `low` and `high`, clamped outside: uint8 [H, W, 3]."""
    span = max(high - low, 1e-12)
    level = np.clip((np.asarray(map, np.float32) - low) / span, 0, 1)
    index = (level * 255).round().astype(np.uint8)
    return _TABLE[index]


def opacity(heat: Picture) -> NDArray[np.float64]:
    """Returns how much a colour of `heat` [H, W, 3] hides: [H, W] in [0, 1], 0 for low scores.

    It is read off the red channel, which rises with the score until the heat hides all it may.
    """
    red = heat[..., 0]
    level = np.clip((red - LOWEST_RED) / (OPAQUE_RED - LOWEST_RED), 0, 1)
    return level * level * (3 - 2 * level)


def overlay(image: Picture, heat: Picture, strength: float = 0.6) -> Picture:
    """Lays `heat` over `image` (both uint8 [H, W, 3]); the part stays visible at low scores.

    `strength` is the share of the image that is hidden at most, in [0, 1].
    """
    share = strength * opacity(heat)[..., None]
    mixed = image * (1 - share) + heat * share
    return mixed.round().astype(np.uint8)


def translucent(heat: Picture, strength: float = 0.6) -> Picture:
    """Makes a layer of `heat`, uint8 [H, W, 4]: laid over an image it gives `overlay`."""
    alpha = (255 * strength * opacity(heat)).round().astype(np.uint8)
    return np.concatenate([heat, alpha[..., None]], -1)


def outline(mask: Mask) -> Mask:
    """Marks the pixels just outside `mask` [H, W], and its own at the image's edge: bool [H, W]."""
    height, width = mask.shape
    padded = np.pad(mask, 1)
    grown = np.zeros_like(mask)
    for y in range(3):
        for x in range(3):
            grown |= padded[y : y + height, x : x + width]
    edge = np.ones_like(mask)
    edge[1:-1, 1:-1] = False
    return grown & (~mask | edge)


def draw_outline(
    image: Picture, mask: Mask, colour: tuple[int, int, int] = (0, 255, 255)
) -> Picture:
    """Returns a copy of `image` [H, W, 3] with the outline of `mask` [H, W]."""
    drawn = image.copy()
    drawn[outline(mask)] = colour
    return drawn


def hatch(image: Picture, mask: Mask, stride: int = 8) -> Picture:
    """Returns a copy of `image` [H, W, 3], fainter and hatched inside `mask` [H, W].

    The diagonal lines are `stride` pixels apart.
    """
    row, column = np.indices(mask.shape)
    drawn = np.where(mask[..., None], image // 2 + 64, image)
    drawn[mask & ((row + column) % stride == 0)] = 40
    return drawn


def outline_path(mask: Mask) -> str:
    """Traces the border of `mask` [H, W] as SVG path data, one unit a pixel; empty if it is."""
    padded = np.pad(mask, 1).astype(np.int8)
    horizontal = np.diff(padded, axis=0)[:, 1:-1]  # [H + 1, W], not 0 between unlike pixels
    vertical = np.diff(padded, axis=1)[1:-1].T
    lines = []
    for line, start, end in _runs(horizontal != 0):
        lines.append(f"M{start} {line}h{end - start}")
    for line, start, end in _runs(vertical != 0):
        lines.append(f"M{line} {start}v{end - start}")
    return "".join(lines)


def _runs(edges: Mask) -> list[list[int]]:
    """Returns row, start and end of each run of true values in the rows of `edges`."""
    padded = np.pad(edges, ((0, 0), (1, 1)))
    change = np.diff(padded.astype(np.int8), axis=1)
    rows, starts = np.nonzero(change == 1)
    _, ends = np.nonzero(change == -1)
    runs = np.stack([rows, starts, ends], axis=1)
    return runs.tolist()


def thumbnail(image: Picture, side: int) -> Picture:
    """Shrinks `image` [H, W, C] until its longer side is at most `side`."""
    height, width = image.shape[:2]
    shrink = min(1.0, side / max(height, width))
    height = max(1, round(height * shrink))
    width = max(1, round(width * shrink))
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def thumbnail_mask(mask: Mask, height: int, width: int) -> Mask:
    """Resizes `mask` to [height, width].

    A pixel is true if any part of it was, so that thin cracks survive.
    """
    image = Image.fromarray(mask.astype(np.float32))
    shares = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(shares) > 0


def data_uri(
    image: Picture, format: Literal["jpeg", "webp", "png"] = "webp", quality: int = 75
) -> str:
    """Encodes `image` [H, W, 3], or [H, W, 4] with opacity (not in JPEG), as text for a `src`."""
    file = io.BytesIO()
    options: dict[str, Any] = {}
    if format == "webp":
        options = {"alpha_quality": 50, "method": 2}
    Image.fromarray(image).save(file, format=format, quality=quality, **options)
    encoded = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{format};base64,{encoded}"
