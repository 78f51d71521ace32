"""The good part of the demo: a printed front plate of brushed aluminium on a dark mat.

The part is designed in units of 1/256 of the image's side, origin at the centre, x to the right and
y down. It is built as layers on a canvas of twice the image's side (`build`), which a defect may
edit before `photograph` lights, places and takes them. All chance is in `Conditions`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

HALF = np.array([106.0, 86.0])  # half the width and height of the plate
CORNER = 13.0  # radius
DIAL_X = -37.0
DIAL_Y = 3.0
DIAL_RADIUS = 34.0
SCREWS = ((-92.0, -72.0), (92.0, -72.0), (-92.0, 72.0), (92.0, 72.0))
SCREW_RADIUS = 7.5
INK = 0.09
ACCENT = (0.82, 0.27, 0.06)
MAT = (0.215, 0.245, 0.265)
WHITE = np.float32(200)  # of 255: leaves room for highlights

Point = tuple[float, float]


class Conditions:
    """Differences between two photographs of good parts; lengths in units, angles in radians."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.angle = np.deg2rad(rng.uniform(-2, 2))
        self.scale = rng.uniform(0.98, 1.02)
        self.shift = rng.uniform((-4, -4), (4, 4))
        self.print_offset = rng.uniform(-0.9, 0.9, 2)  # y and x: the press's tolerance
        self.pointer = np.deg2rad(rng.uniform(-120, -60))
        self.crosses = rng.uniform(0, 0.7, 4)
        self.serial = rng.integers(10000, 99999)
        self.light = math.radians(rng.uniform(-115, -65))  # from above
        self.slant = rng.uniform(0.5, 0.8)  # grazing
        self.exposure = rng.uniform(0.86, 1.12)
        self.gamma = rng.uniform(0.94, 1.07)
        self.gradient = rng.uniform(0.04, 0.14)
        self.warmth = rng.normal(0, 0.012)
        lowest = (-110, -0.7, 40, 0.03)
        highest = (110, 0.7, 80, 0.10)
        self.sheen = rng.uniform(lowest, highest)  # centre, slope, width, strength
        self.grain = rng.uniform(0.03, 0.055)
        self.blur = rng.uniform(0.35, 0.65)
        self.noise = rng.uniform(0.0015, 0.004)
        self.texture_seed = rng.integers(2**32)


@dataclass
class Layers:
    """The part on a canvas of side S (twice the image's), before light falls on it; float32.

    Attributes:
        ink: (2, S, S), 0..1: coverage of black and of accent ink.
        height: (S, S), units: relief, lit by its slope.
        depth: (S, S), 0..1: how much light reaches the place.
        alpha: (S, S), 0..1: 0 where the mat is seen.
        colour: (3, S, S) or (3, 1, 1), 0..1: factor on what the surface reflects.
        gloss: (S, S): added brightness.
    """

    ink: np.ndarray
    height: np.ndarray
    depth: np.ndarray
    alpha: np.ndarray
    colour: np.ndarray
    gloss: np.ndarray


@lru_cache(maxsize=2)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (S, S) canvas coordinates x and y in units, for an image of side `size`."""
    centres = (np.arange(2 * size, dtype=np.float32) + 0.5) / (2 * size)
    axis = (centres - 0.5) * 256
    x, y = np.meshgrid(axis, axis)
    return x, y


def smooth_step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns 0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


class Pen:
    """Draws lines and letters, in units, on the canvas or on one `finer` times as fine."""

    def __init__(self, size: int, finer: int = 1) -> None:
        side = 2 * size * finer
        self.scale = size * finer / 128  # pixels per unit
        self.finer = finer
        self.image = Image.new("L", (side, side))
        self.draw = ImageDraw.Draw(self.image)

    def spoke(self, at: Point, angle: float, start: float, end: float, width: float) -> None:
        """Draws a line from distance `start` to `end` from a point, at an angle."""
        ends = []
        for distance in (start, end):
            x = at[0] + distance * np.cos(angle)
            y = at[1] + distance * np.sin(angle)
            ends.append(self._pixel(x, y))
        self.draw.line(ends, 255, round(width * self.scale))

    def text(
        self, x: float, y: float, text: str, height: float, bold: float = 0.1, anchor: str = "ls"
    ) -> None:
        """Writes letters whose strokes are `bold` wider on each side."""
        font = ImageFont.load_default(size=height * self.scale)
        stroke = bold * self.scale
        self.draw.text(self._pixel(x, y), text, 255, font, anchor, stroke_width=stroke)

    def coverage(self) -> np.ndarray:
        """Returns what is drawn, (S, S), 0..1."""
        return np.asarray(self.image.reduce(self.finer)) / np.float32(255)

    def _pixel(self, x: float, y: float) -> Point:
        return (x + 128) * self.scale, (y + 128) * self.scale


@lru_cache(maxsize=2)
def _print(size: int) -> np.ndarray:
    """Draws what is printed on all plates, (2, S, S), as `Layers.ink`."""
    black = Pen(size, 2)
    accent = Pen(size, 2)
    for step in range(51):
        angle = np.deg2rad(-225 + 5.4 * step)
        if step % 5 == 0:
            black.spoke((DIAL_X, DIAL_Y), angle, 40.5, 49, 1.7)
            x = DIAL_X + 57 * np.cos(angle)
            y = DIAL_Y + 57 * np.sin(angle)
            black.text(x, y, str(step // 5), 11.5, 0.15, "mm")
        else:
            black.spoke((DIAL_X, DIAL_Y), angle, 40.5, 45, 0.9)
    black.text(33, -35, "NORDA", 18.5, 0.45)
    black.text(33.5, -12, "FLOW  L/min", 9.5)
    black.text(33.5, 12, "24 V DC", 12, 0.2)
    black.text(33.5, 25.5, "IP 65", 12, 0.2)
    accent.spoke((33.5, -27), 0, 0, 63.5, 4.5)
    return np.stack([black.coverage(), accent.coverage()])


@lru_cache(maxsize=2)
def _relief(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns height, depth and alpha of all plates, as in `Layers`."""
    x, y = grid(size)
    inside = _inside_plate(x, y)
    r = np.hypot(x - DIAL_X, y - DIAL_Y) - DIAL_RADIUS
    height = 0.75 * np.clip(inside, 0, 2.6) + 0.9 * smooth_step(-r, 0, 2.5)
    height -= 0.7 * smooth_step(-np.abs(r - 1.8), -2.6, -1.4)
    depth = 1 - 0.85 * smooth_step(-np.abs(r - 1.6), -1.7, -0.9)
    for screw_x, screw_y in SCREWS:
        r = np.hypot(x - screw_x, y - screw_y)
        head = np.where(r < SCREW_RADIUS, 1.3 - 0.022 * r**2, 0)
        height += head - 0.8 * smooth_step(-r, -9.8, -8)
        depth *= 1 - 0.7 * smooth_step(-np.abs(r - SCREW_RADIUS - 0.4), -1.3, -0.4)
    alpha = np.clip(inside * size / 128 + 0.5, 0, 1)
    return height, depth, alpha


def _inside_plate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns how far inside the plate, with its round corners, each place lies, in units."""
    qx = np.abs(x) - float(HALF[0]) + CORNER
    qy = np.abs(y) - float(HALF[1]) + CORNER
    beyond_corner = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    return CORNER - beyond_corner - np.minimum(np.maximum(qx, qy), 0)


def build(conditions: Conditions, size: int) -> Layers:
    """Returns the layers of one good part for an image of side `size`."""
    height, depth, alpha = _relief(size)
    offset = np.rint(conditions.print_offset * size / 128).astype(int)
    ink = np.roll(_print(size), offset, (1, 2))
    serial = Pen(size)
    serial.text(33.5, 48, f"No {conditions.serial}", 9.5)
    pointer = Pen(size, 2)
    pointer.spoke((DIAL_X, DIAL_Y), conditions.pointer, 14, 29, 3.2)
    cross = Pen(size, 2)
    for at, turn in zip(SCREWS, conditions.crosses, strict=True):
        cross.spoke(at, turn, -4.7, 4.7, 2.1)
        cross.spoke(at, turn + np.pi / 2, -4.7, 4.7, 2.1)
    crossed = cross.coverage()
    return Layers(
        ink=np.maximum(ink, [serial.coverage(), pointer.coverage()]),
        height=height - 0.9 * crossed,
        depth=depth * (1 - 0.8 * crossed),
        alpha=alpha.copy(),
        colour=np.ones((3, 1, 1), np.float32),
        gloss=np.zeros_like(alpha),
    )


def _metal(conditions: Conditions, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns what the bare metal reflects, (S, S): brushed, and turned on the dial and screws."""
    x, y = grid(size)
    scale = size / 128
    metal = _brushed(conditions, scale, rng, x, y)
    grooves = ndimage.gaussian_filter1d(rng.standard_normal(2 * size), 0.8).astype(np.float32)
    discs = [(DIAL_X, DIAL_Y, DIAL_RADIUS, 0.09)]
    for screw_x, screw_y in SCREWS:
        discs.append((screw_x, screw_y, SCREW_RADIUS, 0.03))
    for centre_x, centre_y, radius, depth in discs:
        rows = _pixels_around(centre_y, radius, scale)
        columns = _pixels_around(centre_x, radius, scale)
        dx = x[rows, columns] - centre_x
        dy = y[rows, columns] - centre_y
        r = np.hypot(dx, dy)
        along = np.arctan2(dy, dx) - conditions.light
        shine = 0.42 * np.abs(np.cos(along)) ** 10 + 0.22 * np.abs(np.cos(along - 1.25)) ** 14
        groove = 1 + depth * grooves[(r * scale).astype(int)]
        disc = (0.44 + shine * smooth_step(r, 0, 5)) * groove
        metal[rows, columns] = np.where(r < radius, disc, metal[rows, columns])
    return metal


def _brushed(
    conditions: Conditions, scale: float, rng: np.random.Generator, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Returns metal that is brushed along x, with the sheen of the light."""
    noise = rng.standard_normal(x.shape, dtype=np.float32)
    along_x = ndimage.uniform_filter1d(noise, round(28 * scale), axis=1, mode="wrap")
    fine = along_x * math.sqrt(28 * scale)
    broad = ndimage.uniform_filter1d(fine[::-1, ::-1], round(2.5 * scale), axis=0, mode="wrap")
    centre, slope, width, strength = conditions.sheen.tolist()
    sheen = strength * np.exp(-(((x + slope * y - centre) / width) ** 2))
    return (0.62 + sheen) * (1 + conditions.grain * (fine + broad))


def _pixels_around(centre: float, radius: float, scale: float) -> slice:
    return slice(int((centre - radius + 127) * scale), int((centre + radius + 130) * scale))


def photograph(layers: Layers, conditions: Conditions, size: int) -> np.ndarray:
    """Lights, places and takes a part: (size, size, 3) in 0..1, without the sensor's noise."""
    rng = np.random.default_rng(conditions.texture_seed)
    metal = _metal(conditions, size, rng)
    placed = _placed(_lit(layers, metal, conditions, size), conditions, size)
    alpha = placed[..., 3:] / 255
    mat = _mat(alpha[..., 0], conditions, size, rng)
    image = mat[..., None] * np.float32(MAT) * (1 - alpha) + placed[..., :3] / 200 * alpha
    return _taken(image, conditions, size)


def _lit(layers: Layers, metal: np.ndarray, conditions: Conditions, size: int) -> np.ndarray:
    """Returns the part under its light, uint8 RGBA (S, S, 4)."""
    unit = size / 256
    slope_y, slope_x = np.gradient(layers.height, 0.5 / unit)
    light = conditions.light - conditions.angle
    facing = slope_x * math.cos(light) + slope_y * math.sin(light)
    shade = layers.depth * np.clip(1 - 0.75 * conditions.slant * facing, 0.25, 1.7)
    black, accent = layers.ink * np.float32(0.95)
    grey = shade * (metal * (1 - accent) * (1 - black) + INK * black) + layers.gloss
    accent *= shade * (1 - black)
    part = np.empty((*metal.shape, 4), np.uint8)
    for channel, paint in enumerate(ACCENT):
        brightness = (grey + accent * paint) * (layers.colour[channel] * WHITE)
        part[..., channel] = np.clip(brightness, 0, 255)
    part[..., 3] = layers.alpha * 255
    return part


def _placed(part: np.ndarray, conditions: Conditions, size: int) -> np.ndarray:
    """Turns, scales and shifts the part, at half the canvas's side: float32 RGBA."""
    cos = np.cos(conditions.angle) / conditions.scale
    sin = np.sin(conditions.angle) / conditions.scale
    ox, oy = size / 2 + conditions.shift * (size / 256)
    inverse = (cos, sin, size / 2 - cos * ox - sin * oy, -sin, cos, size / 2 + sin * ox - cos * oy)
    half = Image.fromarray(part).reduce(2)
    placed = half.transform(half.size, Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
    return np.asarray(placed).astype(np.float32)


def _mat(
    alpha: np.ndarray, conditions: Conditions, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns the brightness of the mat, with the shadow of the part."""
    unit = size / 256
    fine = rng.standard_normal((size, size), dtype=np.float32)
    speckle = ndimage.gaussian_filter(fine, 1.25 * unit)
    coarse = rng.standard_normal((size, size), dtype=np.float32)
    weave = ndimage.uniform_filter(coarse, round(9 * unit), mode="wrap")
    direction = np.array([math.sin(conditions.light), math.cos(conditions.light)])
    offset = -(3 + 4 * conditions.slant) * unit * direction
    cast = ndimage.shift(ndimage.gaussian_filter(alpha, 3.2 * unit), offset, order=1)
    contact = ndimage.gaussian_filter(alpha, 1.2 * unit)
    return (1 + 0.33 * speckle + 0.5 * weave) * (1 - 0.55 * cast) * (1 - 0.45 * contact)


def _taken(image: np.ndarray, conditions: Conditions, size: int) -> np.ndarray:
    """Applies the lamp's field, the lens's blur and the camera's curve."""
    unit = size / 256
    canvas_x, canvas_y = grid(size)
    x = canvas_x[::2, ::2] / 128
    y = canvas_y[::2, ::2] / 128
    along_light = x * math.cos(conditions.light) + y * math.sin(conditions.light)
    field = 1 + conditions.gradient * along_light - 0.07 * (x**2 + y**2)
    tint = np.float32([1 + conditions.warmth, 1, 1 - conditions.warmth])
    image *= (conditions.exposure * field)[..., None] * tint
    blur = conditions.blur * unit
    image = ndimage.gaussian_filter(image, (blur, blur, 0))
    image = np.maximum(image, 0) ** np.float32(conditions.gamma)
    rolled_off = 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2)
    return np.where(image < 0.8, image, rolled_off)


def expose(image: np.ndarray, conditions: Conditions) -> Image.Image:
    """Adds the sensor's noise to a (size, size, 3) image in 0..1; returns an 8-bit RGB image."""
    rng = np.random.default_rng([conditions.texture_seed, 1])
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32)
    noise = grain[..., None] * np.float32(conditions.noise)
    # Every other level, under the noise, makes smaller files.
    levels = np.rint(np.clip(image + noise, 0, 1) * 127)
    return Image.fromarray((levels * 2).astype(np.uint8))
