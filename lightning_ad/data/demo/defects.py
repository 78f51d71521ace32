"""The demo's five kinds of defect: edits of a part's layers, in units (see `parts`)."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from lightning_ad.data.demo.parts import (
    DIAL_RADIUS,
    DIAL_X,
    DIAL_Y,
    HALF,
    SCREWS,
    Layers,
    Pen,
    grid,
    smooth_step,
)

STROKE = np.linspace(-0.5, 0.5, 420)  # the places along a stroke, as shares of its length

Defect = Callable[[Layers, np.random.Generator, int, str], None]

# The printed blocks that a misprint affects: left, top, right, bottom.
WORDS = (
    (31, -52, 99, -33),
    (31, -52, 99, -23),
    (31, -52, 99, -9),
    (31, -1, 80, 28),
    (31, -52, 99, 28),
)
SCALES = (
    (-102, -62, -37, 2),
    (-37, -62, 28, 2),
    (-102, -30, -70, 55),
    (-8, -30, 28, 55),
    (-82, -62, 8, -30),
)


def _spot(rng: np.random.Generator, margin: float) -> np.ndarray:
    """Draws a place (x, y) on the plate, `margin` away from its edge and from the screws."""
    room = HALF - margin
    while True:
        spot = rng.uniform(-room, room)
        distances = np.hypot(*(spot - SCREWS).T)
        if distances.min() > margin + 8:
            return spot


def _relative_to(spot: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the canvas coordinates from a spot, (S, S) each."""
    x, y = grid(size)
    return x - spot[0], y - spot[1]


def _inside(
    rng: np.random.Generator, dx: np.ndarray, dy: np.ndarray, radius: float, rough: float
) -> np.ndarray:
    """Draws a wavy outline around 0; returns how far within it each place lies, along its ray."""
    turn = np.linspace(-np.pi, np.pi, 400)
    n = np.arange(2, 9)[:, None]
    strength = rough / n * rng.uniform(0.3, 1, n.shape)
    waves = strength * np.cos(n * turn + rng.uniform(0, 2 * np.pi, n.shape))
    outline = radius * (1 + waves.sum(axis=0)).astype(np.float32)
    ray = ((np.arctan2(dy, dx) / np.pi + 1) * 199.4).astype(int)
    return outline[ray] - np.hypot(dx, dy)


def scratch(layers: Layers, rng: np.random.Generator, size: int, kind: str) -> None:
    """A deep score, a few strokes of one slip, or a scuff of many fine parallel ones."""
    # All counts are drawn, whichever kind is wanted: the next numbers depend on it.
    count = {"score": 1, "slip": rng.integers(2, 4), "scuff": rng.integers(6, 10)}[kind]
    length = rng.uniform(*{"score": (50, 130), "slip": (40, 90), "scuff": (28, 55)}[kind])
    width = rng.uniform(*{"score": (2.6, 3.8), "slip": (2.0, 3.0), "scuff": (1.2, 1.8)}[kind])
    centre = _spot(rng, 24)
    angle = rng.uniform(0.25, np.pi - 0.25)  # along the brushing it would not be seen
    bend = rng.uniform(-0.22, 0.22)
    strength = rng.uniform(0.55, 0.75)
    for _ in range(count):
        path = _stroke(rng, centre, angle, length, bend, is_single=count == 1)
        groove = _groove(rng, path, width, size) * layers.alpha
        layers.ink *= 1 - groove
        layers.height -= 0.9 * width * groove
        is_bright = rng.random() < 0.65 or kind == "scuff"
        if is_bright:
            layers.gloss += strength * groove * (1 - layers.gloss)
        else:  # dark, with a lit burr beside it
            burr = np.roll(groove, size // 128, 1)
            layers.colour = layers.colour * (1 - (0.2 + strength) * groove)
            layers.gloss += 0.5 * strength * burr * (1 - groove)


def _stroke(
    rng: np.random.Generator,
    centre: np.ndarray,
    angle: float,
    length: float,
    bend: float,
    is_single: bool,
) -> np.ndarray:
    """Draws the path of a stroke, (420, 2) of x and y; one of several lies beside the centre."""
    turn = angle + rng.normal(0, 0.05)
    span = length * rng.uniform(0.65, 1)
    along = [np.cos(turn), np.sin(turn)]
    across = [-np.sin(turn), np.cos(turn)]
    jitter = np.cumsum(np.cumsum(rng.normal(0, 4e-5, STROKE.size)))
    arc = bend * span * (4 * STROKE * STROKE - 0.5) / 2 + jitter
    shift = rng.normal(0, (6, 5))
    if is_single:
        shift = np.zeros(2)
    return centre + (shift + np.stack([STROKE * span, arc], axis=1)) @ np.array([along, across])


def _groove(rng: np.random.Generator, path: np.ndarray, width: float, size: int) -> np.ndarray:
    """Draws the pressure along a path; returns how much of a place is scratched, (S, S), 0..1."""
    pressure = np.interp(STROKE, np.linspace(-0.5, 0.5, 9), rng.uniform(0.6, 1.25, 9))
    begin = smooth_step(STROKE, -0.5, rng.uniform(-0.45, -0.1))
    taper = begin * smooth_step(-STROKE, -0.5, -0.42)
    pen = Pen(size)
    centres = (path + 128) * pen.scale
    radii = width * pressure * (0.25 + 0.75 * taper) * pen.scale / 2
    for centre, radius in zip(centres, radii, strict=True):
        pen.draw.ellipse((*(centre - radius), *(centre + radius)), 255)
    return ndimage.gaussian_filter(pen.coverage(), size / 512)


def stain(layers: Layers, rng: np.random.Generator, size: int, kind: str) -> None:
    """A drop of oil that has run, a rusty bloom, or the rim that a dried liquid leaves."""
    spot = _spot(rng, 20)
    turn = rng.uniform(0, np.pi)
    radius = rng.uniform(11, 22)
    x, y = _relative_to(spot, size)
    inside = _drop(rng, x, y, turn, radius)
    if kind == "oil":
        colour, stained = _oil(layers, rng, x, y, inside, radius)
    elif kind == "rust":
        colour, stained = _rust(layers, rng, size, inside, radius)
    else:
        colour, stained = _dried_rim(rng, inside)
    absorbed = np.float32(colour)[:, None, None] * stained * layers.alpha
    layers.colour = layers.colour * (1 - absorbed)


def _drop(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, turn: float, radius: float
) -> np.ndarray:
    """Returns how far within a drop, or a splash beside it, each place lies."""
    dx = x * np.cos(turn) + y * np.sin(turn)
    dy = y * np.cos(turn) - x * np.sin(turn)
    inside = _inside(rng, dx, dy / rng.uniform(0.7, 1), radius, 0.3)
    for _ in range(rng.integers(0, 4)):
        distance = rng.uniform(1.2, 1.8) * radius
        direction = rng.uniform(0, 2 * np.pi)
        dx = x - distance * np.cos(direction)
        dy = y - distance * np.sin(direction)
        inside = np.maximum(inside, _inside(rng, dx, dy, rng.uniform(1.5, 5), 0.2))
    return inside


Stain = tuple[list[float] | np.ndarray, np.ndarray]  # share of R, G and B that it absorbs; where


def _oil(
    layers: Layers,
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    inside: np.ndarray,
    radius: float,
) -> Stain:
    places = radius * rng.uniform(-0.5, 0.5, 2)
    lengths = radius * rng.uniform(1.2, 2.6, 2)
    for place, length in zip(places, lengths, strict=True):
        drip = rng.uniform(2.2, 3.6) - np.hypot(x - place, y - np.clip(y, 0, length))
        inside = np.maximum(inside, drip)
    body = smooth_step(inside, -1, 3)
    rim = np.exp(-(((inside - 1.2) / 1.1) ** 2))
    colour = rng.uniform(0.32, 0.52) * rng.choice([[0.75, 0.95, 1.35], [0.95, 1.0, 1.05]])
    layers.gloss += 0.13 * rim * smooth_step(-y, -radius, radius) * layers.alpha
    return colour, np.minimum(body + 0.35 * rim, 1.2)


def _rust(
    layers: Layers, rng: np.random.Generator, size: int, inside: np.ndarray, radius: float
) -> Stain:
    noise = rng.standard_normal(inside.shape, dtype=np.float32)
    grit = ndimage.gaussian_filter(noise, size / 130)
    grit /= grit.std()
    body = smooth_step(inside + 3.6 * grit, -3, radius * 0.6) * rng.uniform(0.75, 1)
    pores = smooth_step(grit, 0.6, 1.8) * body
    layers.height -= 0.8 * pores
    return [0.32, 0.62, 0.88], np.minimum(body + 0.25 * pores, 1.05)


def _dried_rim(rng: np.random.Generator, inside: np.ndarray) -> Stain:
    width = np.where(inside < 0, 0.8, rng.uniform(2, 3.4))
    rim = np.exp(-((inside / width) ** 2))
    colour = rng.choice([[0.45, 0.6, 0.8], [0.55, 0.55, 0.5], [0.72, 0.55, 0.42]])
    return colour, rim + 0.36 * smooth_step(inside, 0, 2) * (1 - rim)


def hole(layers: Layers, rng: np.random.Generator, size: int, kind: str) -> None:
    """A bore where none belongs, a punched dent, or a nest of corroded pits."""
    margin = 22 if kind == "pits" else 12
    x, y = _relative_to(_spot(rng, margin), size)
    if kind == "bore":
        _bore(layers, rng, x, y)
    elif kind == "dent":
        _dent(layers, rng, x, y)
    else:
        _pits(layers, rng, x, y)


def _bore(layers: Layers, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> None:
    inside = rng.uniform(4.2, 7.5) - np.hypot(x, y)
    layers.height -= 1.5 * smooth_step(inside, -2.2, 0.4)  # the bevelled rim
    layers.ink *= 1 - smooth_step(inside, -2, -1)
    layers.alpha *= 1 - smooth_step(inside, -0.4, 0.4)


def _dent(layers: Layers, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> None:
    radius = rng.uniform(7, 12)
    inside = _inside(rng, x, y * rng.uniform(0.9, 1.3), radius, 0.1)
    layers.height -= radius * rng.uniform(0.55, 0.8) * smooth_step(inside, -1.5, radius * 0.9)
    pushed_up = np.exp(-(((inside + 1.2) / 1.3) ** 2))  # the metal around it
    layers.height += 0.8 * pushed_up
    layers.depth *= 1 - 0.35 * smooth_step(inside, 0, radius)


def _pits(layers: Layers, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> None:
    for place in rng.normal(0, 7.5, (rng.integers(6, 12), 2)):
        radius = rng.uniform(1.8, 4.2)
        inside = _inside(rng, x - place[0], y - place[1], radius, 0.25)
        pit = smooth_step(inside, -0.6, 0.9) * layers.alpha
        layers.height -= 1.6 * smooth_step(inside, -0.8, radius)
        layers.depth *= 1 - 0.7 * pit
        layers.ink *= 1 - pit


def missing_piece(layers: Layers, rng: np.random.Generator, size: int, kind: str) -> None:
    """A corner broken off, a bite out of an edge, or a screw that was never put in."""
    x, y = grid(size)
    if kind == "screw":
        _no_screw(layers, rng, x, y)
        return
    side = rng.choice([-1, 1], 2)
    if kind == "corner":
        along, inside = _off_corner(rng, side, x, y)
    else:
        along, inside = _off_edge(rng, side, x, y)
    _break_off(layers, rng, along, inside)


def _no_screw(layers: Layers, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> None:
    place = rng.choice(SCREWS)
    bore = rng.uniform(3.6, 4.6)
    r = np.hypot(x - place[0], y - place[1])
    seat = layers.height[r < 12].max() + 0.55 * np.clip(r - 9, bore - 9, 0)
    dark = 1 - 0.86 * smooth_step(-r, -bore - 0.6, -bore + 0.6)
    layers.height = np.where(r < 10, seat, layers.height)
    layers.depth = np.where(r < 10, dark, layers.depth)


def _off_corner(
    rng: np.random.Generator, side: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place along a straight break, and how far inside the missing corner it lies."""
    normal = side * rng.uniform(0.6, 1, 2)
    normal /= np.hypot(*normal)
    along = y * normal[0] - x * normal[1]
    cut = normal @ (side * (HALF - 4)) - rng.uniform(14, 30)
    return along, x * normal[0] + y * normal[1] - cut


def _off_edge(
    rng: np.random.Generator, side: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place along an edge, and how far inside a bite out of it it lies."""
    is_upright = rng.random() < 0.5
    if is_upright:
        along = y
        across = x * side[0] - HALF[0]
    else:
        along = x
        across = y * side[1] - HALF[1]
    along = along - rng.uniform(-0.65, 0.65) * HALF[int(is_upright)]
    width = rng.uniform(12, 22)
    depth = rng.uniform(10, 18)
    return along, (1 - np.hypot(along / width, across / depth)) * depth


def _break_off(
    layers: Layers, rng: np.random.Generator, along: np.ndarray, inside: np.ndarray
) -> None:
    """Takes away what is inside, along a jagged line with a bare face of fracture."""
    waves = ndimage.gaussian_filter1d(rng.standard_normal(300), 1.2)
    jags = 2.2 * waves + rng.normal(0, 0.3, 300)
    jagged = np.interp(along, np.linspace(-160, 160, 300), jags).astype(np.float32)
    inside = inside + jagged
    face = smooth_step(inside, -rng.uniform(2, 3.5), 0) * layers.alpha
    noise = rng.standard_normal(inside.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(noise, 1.5)
    layers.ink *= 1 - face
    layers.height -= (1.5 + 3 * grain) * face
    layers.gloss += 0.16 * face
    layers.alpha *= 1 - smooth_step(inside, -0.4, 0.4)


def misprint(layers: Layers, rng: np.random.Generator, size: int, kind: str) -> None:
    """A printed block that is doubled, smeared, missing, out of its place, or clotted with ink."""
    x, y = grid(size)
    blocks = WORDS if rng.random() < 0.6 else SCALES
    box = rng.choice(blocks)
    left, top, right, bottom = box
    in_box = (x > left) & (x < right) & (y > top) & (y < bottom)
    beside_dial = np.hypot(x - DIAL_X, y - DIAL_Y) > DIAL_RADIUS + 4
    block = layers.ink * (in_box & beside_dial)
    turn = rng.uniform(0, 2 * np.pi)
    distance = rng.uniform(7, 11)
    # Along y and x, in pixels of the canvas.
    move = size / 128 * distance * np.array([np.sin(turn), np.cos(turn)])
    if kind == "doubled":
        _double(layers, rng, block, move)
    elif kind == "smeared":
        _smear(layers, rng, block, move)
    elif kind == "missing":
        _fade(layers, rng, size, block, box)
    elif kind == "displaced":
        _displace(layers, rng, size, block, box, move)
    else:
        _clot(layers, rng, size, block)
    layers.ink *= layers.alpha


def _moved(block: np.ndarray, move: np.ndarray) -> np.ndarray:
    return np.roll(block, np.rint(move).astype(int), (1, 2))


def _double(layers: Layers, rng: np.random.Generator, block: np.ndarray, move: np.ndarray) -> None:
    layers.ink = np.maximum(layers.ink, rng.uniform(0.7, 1) * _moved(block, move))


def _smear(layers: Layers, rng: np.random.Generator, block: np.ndarray, move: np.ndarray) -> None:
    trail = 0
    for number, step in enumerate(np.linspace(0, rng.uniform(1.8, 2.6), 12)):
        trail = trail + (1 - number / 14) * _moved(block, move * step)
    layers.ink = np.clip(layers.ink - 0.35 * block + rng.uniform(0.22, 0.3) * trail, 0, 1)


def _fade(
    layers: Layers, rng: np.random.Generator, size: int, block: np.ndarray, box: np.ndarray
) -> None:
    x, y = grid(size)
    left, top, right, bottom = box
    ramp = rng.uniform(-1, 1) * (x - (left + right) / 2) + y - (top + bottom) / 2
    faded = 1
    is_whole = rng.random() < 0.6
    if not is_whole:
        faded = smooth_step(ramp * rng.choice([-1, 1]), -8, 2)
    layers.ink -= block * faded * rng.uniform(0.85, 1)


def _displace(
    layers: Layers,
    rng: np.random.Generator,
    size: int,
    block: np.ndarray,
    box: np.ndarray,
    move: np.ndarray,
) -> None:
    left, top, right, bottom = box
    tilt = np.deg2rad(rng.choice([-1, 1]) * rng.uniform(9, 15))
    matrix = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    centre = (np.array([top + bottom, left + right]) / 2 + 128) * (size / 128)
    offset = centre - matrix @ (centre + move)
    moved = [ndimage.affine_transform(layer, matrix, offset, order=1) for layer in block]
    layers.ink = np.maximum(layers.ink - block, moved)


def _clot(layers: Layers, rng: np.random.Generator, size: int, block: np.ndarray) -> None:
    x, y = grid(size)
    row, column = rng.choice(np.argwhere(block[0] > 0.5))
    dx = x - x[row, column]
    dy = y - y[row, column]
    clot = smooth_step(_inside(rng, dx, dy, rng.uniform(7, 11), 0.35), -0.5, 0.7)
    blurred = ndimage.gaussian_filter(block[0], 0.9 * (size / 128))
    swollen = np.clip(2.2 * blurred, 0, 1)
    near = smooth_step(-np.hypot(dx, dy), -24, -12)
    layers.ink[0] = np.maximum(layers.ink[0], np.maximum(clot, swollen * near))


# Each kind of defect, and its variants in the order in which its images show them.
DEFECTS: dict[str, tuple[Defect, tuple[str, ...]]] = {
    "scratch": (scratch, ("score", "slip", "scuff")),
    "stain": (stain, ("oil", "rust", "rim")),
    "hole": (hole, ("bore", "dent", "pits")),
    "missing_piece": (missing_piece, ("corner", "edge", "screw")),
    "misprint": (misprint, ("doubled", "smeared", "missing", "displaced", "clotted")),
}
