"""The normal part of the demo: a printed front plate of brushed aluminium, photographed on a dark mat.

The part is designed in units of 1/256 of the image's side, origin at the centre, x to the right and y down. It is
built as layers on a canvas of twice the image's side (:func:`build`), which a defect may edit before
:func:`photograph` lights, places and takes them. All chance is in :class:`Conditions`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

HALF, CORNER = np.array([106.0, 86.0]), 13.0  # the plate
DIAL_X, DIAL_Y, DIAL_RADIUS = -37.0, 3.0, 34.0
SCREWS, SCREW_RADIUS = ((-92.0, -72.0), (92.0, -72.0), (-92.0, 72.0), (92.0, 72.0)), 7.5
INK, ACCENT, MAT = 0.09, (0.82, 0.27, 0.06), (0.215, 0.245, 0.265)


class Conditions:
    """What differs between two photographs of good parts; lengths in units, angles in radians."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.angle, self.scale = np.deg2rad(rng.uniform(-2, 2)), rng.uniform(0.98, 1.02)
        self.shift = rng.uniform((-4, -4), (4, 4))
        self.print_offset = rng.uniform(-0.9, 0.9, 2)  # y and x: the press's tolerance
        self.pointer, self.crosses = np.deg2rad(rng.uniform(-120, -60)), rng.uniform(0, 0.7, 4)
        self.serial = rng.integers(10000, 99999)
        self.light, self.slant = (
            math.radians(rng.uniform(-115, -65)),
            rng.uniform(0.5, 0.8),
        )  # from above, grazing
        self.exposure, self.gamma = rng.uniform(0.86, 1.12), rng.uniform(0.94, 1.07)
        self.gradient, self.warmth = rng.uniform(0.04, 0.14), rng.normal(0, 0.012)
        self.sheen = rng.uniform(
            (-110, -0.7, 40, 0.03), (110, 0.7, 80, 0.10)
        )  # centre, slope, width, strength
        self.grain = rng.uniform(0.03, 0.055)
        self.blur, self.noise = rng.uniform(0.35, 0.65), rng.uniform(0.0015, 0.004)
        self.texture_seed = rng.integers(2**32)


@dataclass
class Layers:
    """The part on a canvas of side S (twice the image's), before light falls on it; float32."""

    ink: np.ndarray  # (2, S, S), 0..1: coverage of black and of accent ink
    height: np.ndarray  # (S, S), units: relief, lit by its slope
    depth: np.ndarray  # (S, S), 0..1: how much light reaches the place
    alpha: np.ndarray  # (S, S), 0..1: 0 where the mat is seen
    colour: np.ndarray  # (3, S, S) or (3, 1, 1), 0..1: factor on what the surface reflects
    gloss: np.ndarray  # (S, S): added brightness


@lru_cache(maxsize=2)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The (S, S) canvas coordinates x and y in units, for an image of side ``size``."""
    axis = ((np.arange(2 * size, dtype=np.float32) + 0.5) / (2 * size) - 0.5) * 256
    return tuple(np.meshgrid(axis, axis))


def smooth_step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


class Pen:
    """Draws lines and letters, in units, on the canvas or on a finer one."""

    def __init__(self, size: int, finer: int = 1) -> None:
        self.k, self.finer = size * finer / 128, finer
        self.image = Image.new("L", (2 * size * finer, 2 * size * finer))
        self.draw = ImageDraw.Draw(self.image)

    def spoke(
        self, at: tuple[float, float], angle: float, start: float, end: float, width: float
    ) -> None:
        """A line from distance ``start`` to ``end`` from a point, at an angle."""
        ends = [(at[0] + r * np.cos(angle), at[1] + r * np.sin(angle)) for r in (start, end)]
        self.draw.line(
            [((x + 128) * self.k, (y + 128) * self.k) for x, y in ends], 255, round(width * self.k)
        )

    def text(
        self, x: float, y: float, text: str, height: float, bold: float = 0.1, anchor: str = "ls"
    ) -> None:
        """Letters whose strokes are ``bold`` wider on each side."""
        font, at = (
            ImageFont.load_default(size=height * self.k),
            ((x + 128) * self.k, (y + 128) * self.k),
        )
        self.draw.text(at, text, 255, font, anchor, stroke_width=bold * self.k)

    def coverage(self) -> np.ndarray:
        """(S, S), 0..1."""
        return np.asarray(self.image.reduce(self.finer)) / np.float32(255)


@lru_cache(maxsize=2)
def _fixed(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What all parts share: ink, height, depth and alpha, as in :class:`Layers`."""
    black, accent = Pen(size, 2), Pen(size, 2)
    for step in range(51):
        angle, major = np.deg2rad(-225 + 5.4 * step), step % 5 == 0
        black.spoke((DIAL_X, DIAL_Y), angle, 40.5, 49 if major else 45, 1.7 if major else 0.9)
        if major:
            x, y = DIAL_X + 57 * np.cos(angle), DIAL_Y + 57 * np.sin(angle)
            black.text(x, y, str(step // 5), 11.5, 0.15, "mm")
    black.text(33, -35, "NORDA", 18.5, 0.45)
    black.text(33.5, -12, "FLOW  L/min", 9.5)
    black.text(33.5, 12, "24 V DC", 12, 0.2)
    black.text(33.5, 25.5, "IP 65", 12, 0.2)
    accent.spoke((33.5, -27), 0, 0, 63.5, 4.5)

    x, y = grid(size)
    qx, qy = (np.abs(v) - float(half) + CORNER for v, half in zip(grid(size), HALF, strict=True))
    inside = (
        CORNER - np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) - np.minimum(np.maximum(qx, qy), 0)
    )
    r = np.hypot(x - DIAL_X, y - DIAL_Y) - DIAL_RADIUS
    height = 0.75 * np.clip(inside, 0, 2.6) + 0.9 * smooth_step(-r, 0, 2.5)
    height -= 0.7 * smooth_step(-np.abs(r - 1.8), -2.6, -1.4)
    depth = 1 - 0.85 * smooth_step(-np.abs(r - 1.6), -1.7, -0.9)
    for screw_x, screw_y in SCREWS:
        r = np.hypot(x - screw_x, y - screw_y)
        height += np.where(r < SCREW_RADIUS, 1.3 - 0.022 * r**2, 0) - 0.8 * smooth_step(
            -r, -9.8, -8
        )
        depth *= 1 - 0.7 * smooth_step(-np.abs(r - SCREW_RADIUS - 0.4), -1.3, -0.4)
    alpha = np.clip(inside * size / 128 + 0.5, 0, 1)
    return np.stack([black.coverage(), accent.coverage()]), height, depth, alpha


def build(conditions: Conditions, size: int) -> Layers:
    """The layers of one good part for an image of side ``size``."""
    ink, height, depth, alpha = (layer.copy() for layer in _fixed(size))
    ink = np.roll(ink, np.rint(conditions.print_offset * size / 128).astype(int), (1, 2))
    pens = Pen(size), Pen(size, 2), Pen(size, 2)
    pens[0].text(33.5, 48, f"No {conditions.serial}", 9.5)
    pens[1].spoke((DIAL_X, DIAL_Y), conditions.pointer, 14, 29, 3.2)
    for at, turn in zip(SCREWS, conditions.crosses, strict=True):
        pens[2].spoke(at, turn, -4.7, 4.7, 2.1)
        pens[2].spoke(at, turn + np.pi / 2, -4.7, 4.7, 2.1)
    serial, pointer, cross = (pen.coverage() for pen in pens)
    ink = np.maximum(ink, [serial, pointer])
    return Layers(
        ink,
        height - 0.9 * cross,
        depth * (1 - 0.8 * cross),
        alpha,
        np.ones((3, 1, 1), np.float32),
        np.zeros_like(alpha),
    )


def _metal(conditions: Conditions, size: int, rng: np.random.Generator) -> np.ndarray:
    """(S, S): what the bare metal reflects, brushed along x and, on the dial and the screws, turned."""
    x, y = grid(size)
    k = size / 128
    noise = rng.standard_normal(x.shape, dtype=np.float32)
    fine = ndimage.uniform_filter1d(noise, round(28 * k), axis=1, mode="wrap") * math.sqrt(28 * k)
    broad = ndimage.uniform_filter1d(fine[::-1, ::-1], round(2.5 * k), axis=0, mode="wrap")
    centre, slope, width, strength = (float(v) for v in conditions.sheen)
    sheen = strength * np.exp(-(((x + slope * y - centre) / width) ** 2))
    metal = (0.62 + sheen) * (1 + conditions.grain * (fine + broad))
    grooves = ndimage.gaussian_filter1d(rng.standard_normal(2 * size), 0.8).astype(np.float32)
    for cx, cy, radius, groove in [(DIAL_X, DIAL_Y, DIAL_RADIUS, 0.09)] + [
        (*s, SCREW_RADIUS, 0.03) for s in SCREWS
    ]:
        rows, columns = (
            slice(int((c - radius + 127) * k), int((c + radius + 130) * k)) for c in (cy, cx)
        )
        dx, dy = x[rows, columns] - cx, y[rows, columns] - cy
        r, along = np.hypot(dx, dy), np.arctan2(dy, dx) - conditions.light
        shine = 0.42 * np.abs(np.cos(along)) ** 10 + 0.22 * np.abs(np.cos(along - 1.25)) ** 14
        disc = (0.44 + shine * smooth_step(r, 0, 5)) * (1 + groove * grooves[(r * k).astype(int)])
        metal[rows, columns] = np.where(r < radius, disc, metal[rows, columns])
    return metal


def photograph(layers: Layers, conditions: Conditions, size: int) -> np.ndarray:
    """Light, place and take a part: the (size, size, 3) image in 0..1, without the sensor's noise."""
    rng, c, k = np.random.default_rng(conditions.texture_seed), conditions, size / 256
    metal = _metal(c, size, rng)
    slope_y, slope_x = np.gradient(layers.height, 0.5 / k)
    facing = slope_x * math.cos(c.light - c.angle) + slope_y * math.sin(c.light - c.angle)
    shade = layers.depth * np.clip(1 - 0.75 * c.slant * facing, 0.25, 1.7)
    black, accent = layers.ink * np.float32(0.95)
    grey = shade * (metal * (1 - accent) * (1 - black) + INK * black) + layers.gloss
    accent *= shade * (1 - black)
    part = np.empty((*metal.shape, 4), np.uint8)
    for i, paint in enumerate(ACCENT):  # 200 leaves room for highlights
        part[..., i] = np.clip(
            (grey + accent * paint) * (layers.colour[i] * np.float32(200)), 0, 255
        )
    part[..., 3] = layers.alpha * 255

    cos, sin = np.cos(c.angle) / c.scale, np.sin(c.angle) / c.scale
    ox, oy = size / 2 + c.shift * k
    inverse = (cos, sin, size / 2 - cos * ox - sin * oy, -sin, cos, size / 2 + sin * ox - cos * oy)
    placed = Image.fromarray(part).reduce(2)
    placed = placed.transform(
        placed.size, Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC
    )
    placed = np.asarray(placed).astype(np.float32)
    alpha = placed[..., 3:] / 255

    speckle = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), 1.25 * k)
    weave = ndimage.uniform_filter(
        rng.standard_normal((size, size), dtype=np.float32), round(9 * k), mode="wrap"
    )
    offset = -(3 + 4 * c.slant) * k * np.array([math.sin(c.light), math.cos(c.light)])
    cast = ndimage.shift(ndimage.gaussian_filter(alpha[..., 0], 3.2 * k), offset, order=1)
    contact = ndimage.gaussian_filter(alpha[..., 0], 1.2 * k)
    mat = (1 + 0.33 * speckle + 0.5 * weave) * (1 - 0.55 * cast) * (1 - 0.45 * contact)
    image = mat[..., None] * np.float32(MAT) * (1 - alpha) + placed[..., :3] / 200 * alpha
    x, y = (axis[::2, ::2] / 128 for axis in grid(size))
    field = 1 + c.gradient * (x * math.cos(c.light) + y * math.sin(c.light)) - 0.07 * (x**2 + y**2)
    image *= (c.exposure * field)[..., None] * np.float32([1 + c.warmth, 1, 1 - c.warmth])
    image = ndimage.gaussian_filter(image, (c.blur * k, c.blur * k, 0))
    image = np.maximum(image, 0) ** np.float32(c.gamma)
    return np.where(
        image < 0.8, image, 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2)
    )  # highlights roll off


def expose(image: np.ndarray, conditions: Conditions) -> Image.Image:
    """Add the sensor's noise to a (size, size, 3) image in 0..1 and make it an 8-bit RGB image."""
    rng = np.random.default_rng([conditions.texture_seed, 1])
    noise = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * np.float32(
        conditions.noise
    )
    levels = np.rint(
        np.clip(image + noise, 0, 1) * 127
    )  # every other level, under the noise: smaller files
    return Image.fromarray((levels * 2).astype(np.uint8))
