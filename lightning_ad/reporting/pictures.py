"""Pictures of scores: heat maps, outlines and thumbnails as arrays, charts as SVG text. Pure functions."""

import base64
import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
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


_TABLE = np.stack(
    [np.interp(np.linspace(0, 7, 256), range(8), c).round() for c in COLOURS.T], -1
).astype(np.uint8)


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


def draw_outline(
    image: Picture, mask: Mask, colour: tuple[int, int, int] = (0, 255, 255)
) -> Picture:
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
    rows = np.diff(np.pad(mask, 1).astype(np.int8), axis=0)[
        :, 1:-1
    ]  # [H + 1, W], not 0 between unlike pixels
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


def data_uri(
    image: Picture, format: Literal["jpeg", "webp", "png"] = "webp", quality: int = 75
) -> str:
    """`image` [H, W, 3], or [H, W, 4] with opacity (not in JPEG), as text that an `src` takes."""
    file = io.BytesIO()
    options = {"webp": {"alpha_quality": 50, "method": 2}}.get(format, {})
    Image.fromarray(image).save(file, format=format, quality=quality, **options)
    return f"data:image/{format};base64,{base64.b64encode(file.getvalue()).decode()}"
