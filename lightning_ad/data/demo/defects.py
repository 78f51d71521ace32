"""The demo's five kinds of defect, each an edit of the part's layers; sizes and places in units (see parts)."""

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

# The printed blocks that a misprint befalls: left, top, right, bottom.
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
    """A place (x, y) on the plate, ``margin`` away from its edge and from the screws."""
    room = HALF - margin
    while True:
        spot = rng.uniform(-room, room)
        if np.hypot(*(spot - SCREWS).T).min() > margin + 8:
            return spot


def _inside(
    rng: np.random.Generator, dx: np.ndarray, dy: np.ndarray, radius: float, rough: float
) -> np.ndarray:
    """(S, S), units: how far within a wavy outline around 0 each place lies, along its ray."""
    turn, n = np.linspace(-np.pi, np.pi, 400), np.arange(2, 9)[:, None]
    waves = (
        rough
        / n
        * rng.uniform(0.3, 1, n.shape)
        * np.cos(n * turn + rng.uniform(0, 2 * np.pi, n.shape))
    )
    outline = radius * (1 + waves.sum(axis=0)).astype(np.float32)
    return outline[((np.arctan2(dy, dx) / np.pi + 1) * 199.4).astype(int)] - np.hypot(dx, dy)


def scratch(layers: Layers, rng: np.random.Generator, size: int, kind: str) -> None:
    """A deep score, a few strokes of one slip, or a scuff of many fine parallel ones."""
    count = {"score": 1, "slip": rng.integers(2, 4), "scuff": rng.integers(6, 10)}[kind]
    length = rng.uniform(*{"score": (50, 130), "slip": (40, 90), "scuff": (28, 55)}[kind])
    width = rng.uniform(*{"score": (2.6, 3.8), "slip": (2.0, 3.0), "scuff": (1.2, 1.8)}[kind])
    centre, angle = (
        _spot(rng, 24),
        rng.uniform(0.25, np.pi - 0.25),
    )  # along the brushing it would not be seen
    bend, strength, t = (
        rng.uniform(-0.22, 0.22),
        rng.uniform(0.55, 0.75),
        np.linspace(-0.5, 0.5, 420),
    )
    for _ in range(count):
        turn, span = angle + rng.normal(0, 0.05), length * rng.uniform(0.65, 1)
        axes = np.array(
            [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
        )  # along, across
        arc = bend * span * (4 * t * t - 0.5) / 2 + np.cumsum(
            np.cumsum(rng.normal(0, 4e-5, t.size))
        )
        path = (
            centre
            + (rng.normal(0, (6, 5)) * (count > 1) + np.stack([t * span, arc], axis=1)) @ axes
        )
        pressure = np.interp(t, np.linspace(-0.5, 0.5, 9), rng.uniform(0.6, 1.25, 9))
        taper = smooth_step(t, -0.5, rng.uniform(-0.45, -0.1)) * smooth_step(-t, -0.5, -0.42)
        pen = Pen(size)
        for at, half in zip(
            (path + 128) * pen.k, width * pressure * (0.25 + 0.75 * taper) * pen.k / 2, strict=True
        ):
            pen.draw.ellipse((*(at - half), *(at + half)), 255)
        groove = ndimage.gaussian_filter(pen.coverage(), size / 512) * layers.alpha
        layers.ink *= 1 - groove
        layers.height -= 0.9 * width * groove
        if rng.random() < 0.65 or kind == "scuff":
            layers.gloss += strength * groove * (1 - layers.gloss)
        else:  # dark, with a lit burr beside it
            layers.colour = layers.colour * (1 - (0.2 + strength) * groove)
            layers.gloss += 0.5 * strength * np.roll(groove, size // 128, 1) * (1 - groove)


def stain(layers: Layers, rng: np.random.Generator, size: int, kind: str) -> None:
    """A drop of oil that has run, a rusty bloom, or the rim that a dried liquid leaves."""
    spot, turn, radius = _spot(rng, 20), rng.uniform(0, np.pi), rng.uniform(11, 22)
    x, y = (axis - at for axis, at in zip(grid(size), spot, strict=True))
    dx, dy = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside = _inside(rng, dx, dy / rng.uniform(0.7, 1), radius, 0.3)
    for _ in range(rng.integers(0, 4)):  # splashes beside it
        at, where = rng.uniform(1.2, 1.8) * radius, rng.uniform(0, 2 * np.pi)
        splash = _inside(
            rng, x - at * np.cos(where), y - at * np.sin(where), rng.uniform(1.5, 5), 0.2
        )
        inside = np.maximum(inside, splash)
    if kind == "oil":
        for at, run in zip(
            radius * rng.uniform(-0.5, 0.5, 2), radius * rng.uniform(1.2, 2.6, 2), strict=True
        ):
            drip = rng.uniform(2.2, 3.6) - np.hypot(x - at, y - np.clip(y, 0, run))
            inside = np.maximum(inside, drip)
        body, rim = smooth_step(inside, -1, 3), np.exp(-(((inside - 1.2) / 1.1) ** 2))
        colour = rng.uniform(0.32, 0.52) * rng.choice([[0.75, 0.95, 1.35], [0.95, 1.0, 1.05]])
        stained = np.minimum(body + 0.35 * rim, 1.2)
        layers.gloss += 0.13 * rim * smooth_step(-y, -radius, radius) * layers.alpha
    elif kind == "rust":
        grit = ndimage.gaussian_filter(rng.standard_normal(x.shape, dtype=np.float32), size / 130)
        grit /= grit.std()
        body = smooth_step(inside + 3.6 * grit, -3, radius * 0.6) * rng.uniform(0.75, 1)
        pores = smooth_step(grit, 0.6, 1.8) * body
        colour, stained = [0.32, 0.62, 0.88], np.minimum(body + 0.25 * pores, 1.05)
        layers.height -= 0.8 * pores
    else:
        rim = np.exp(-((inside / np.where(inside < 0, 0.8, rng.uniform(2, 3.4))) ** 2))
        colour = rng.choice([[0.45, 0.6, 0.8], [0.55, 0.55, 0.5], [0.72, 0.55, 0.42]])
        stained = rim + 0.36 * smooth_step(inside, 0, 2) * (1 - rim)
    layers.colour = layers.colour * (1 - np.float32(colour)[:, None, None] * stained * layers.alpha)


def hole(layers: Layers, rng: np.random.Generator, size: int, kind: str) -> None:
    """A bore where none belongs, a punched dent, or a nest of corroded pits."""
    spot = _spot(rng, 22 if kind == "pits" else 12)
    x, y = (axis - at for axis, at in zip(grid(size), spot, strict=True))
    if kind == "bore":
        inside = rng.uniform(4.2, 7.5) - np.hypot(x, y)
        layers.height -= 1.5 * smooth_step(inside, -2.2, 0.4)  # the bevelled rim
        layers.ink *= 1 - smooth_step(inside, -2, -1)
        layers.alpha *= 1 - smooth_step(inside, -0.4, 0.4)
    elif kind == "dent":
        radius = rng.uniform(7, 12)
        inside = _inside(rng, x, y * rng.uniform(0.9, 1.3), radius, 0.1)
        layers.height -= radius * rng.uniform(0.55, 0.8) * smooth_step(inside, -1.5, radius * 0.9)
        layers.height += 0.8 * np.exp(
            -(((inside + 1.2) / 1.3) ** 2)
        )  # the metal pushed up around it
        layers.depth *= 1 - 0.35 * smooth_step(inside, 0, radius)
    else:
        for at in rng.normal(0, 7.5, (rng.integers(6, 12), 2)):
            radius = rng.uniform(1.8, 4.2)
            inside = _inside(rng, x - at[0], y - at[1], radius, 0.25)
            pit = smooth_step(inside, -0.6, 0.9) * layers.alpha
            layers.height -= 1.6 * smooth_step(inside, -0.8, radius)
            layers.depth *= 1 - 0.7 * pit
            layers.ink *= 1 - pit


def missing_piece(layers: Layers, rng: np.random.Generator, size: int, kind: str) -> None:
    """A corner broken off, a bite out of an edge, or a screw that was never put in."""
    x, y = grid(size)
    if kind == "screw":
        at, bore = rng.choice(SCREWS), rng.uniform(3.6, 4.6)
        r = np.hypot(x - at[0], y - at[1])
        seat = layers.height[r < 12].max() + 0.55 * np.clip(r - 9, bore - 9, 0)
        layers.height = np.where(r < 10, seat, layers.height)
        layers.depth = np.where(
            r < 10, 1 - 0.86 * smooth_step(-r, -bore - 0.6, -bore + 0.6), layers.depth
        )
        return
    side = rng.choice([-1, 1], 2)
    if kind == "corner":
        normal = side * rng.uniform(0.6, 1, 2)
        normal /= np.hypot(*normal)
        along = y * normal[0] - x * normal[1]
        cut = normal @ (side * (HALF - 4)) - rng.uniform(14, 30)
        inside = x * normal[0] + y * normal[1] - cut
    else:
        upright = rng.random() < 0.5
        along, across = (y, x * side[0] - HALF[0]) if upright else (x, y * side[1] - HALF[1])
        along = along - rng.uniform(-0.65, 0.65) * HALF[int(upright)]
        wide, deep = rng.uniform(12, 22), rng.uniform(10, 18)
        inside = (1 - np.hypot(along / wide, across / deep)) * deep
    jags = 2.2 * ndimage.gaussian_filter1d(rng.standard_normal(300), 1.2) + rng.normal(0, 0.3, 300)
    inside = inside + np.interp(along, np.linspace(-160, 160, 300), jags).astype(np.float32)
    face = (
        smooth_step(inside, -rng.uniform(2, 3.5), 0) * layers.alpha
    )  # the bare face of the fracture
    grain = ndimage.gaussian_filter(rng.standard_normal(x.shape, dtype=np.float32), 1.5)
    layers.ink *= 1 - face
    layers.height -= (1.5 + 3 * grain) * face
    layers.gloss += 0.16 * face
    layers.alpha *= 1 - smooth_step(inside, -0.4, 0.4)


def misprint(layers: Layers, rng: np.random.Generator, size: int, kind: str) -> None:
    """A printed block that is doubled, smeared, missing, or out of its place, or a clot of ink on it."""
    (x, y), k = grid(size), size / 128
    left, top, right, bottom = rng.choice(WORDS if rng.random() < 0.6 else SCALES)
    chosen = (x > left) & (x < right) & (y > top) & (y < bottom)
    block = layers.ink * (chosen & (np.hypot(x - DIAL_X, y - DIAL_Y) > DIAL_RADIUS + 4))
    turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(7, 11)
    move = k * far * np.array([np.sin(turn), np.cos(turn)])
    if kind == "doubled":
        layers.ink = np.maximum(
            layers.ink, rng.uniform(0.7, 1) * np.roll(block, np.rint(move).astype(int), (1, 2))
        )
    elif kind == "smeared":
        steps = enumerate(np.linspace(0, rng.uniform(1.8, 2.6), 12))
        trail = sum(
            (1 - i / 14) * np.roll(block, np.rint(move * step).astype(int), (1, 2))
            for i, step in steps
        )
        layers.ink = np.clip(layers.ink - 0.35 * block + rng.uniform(0.22, 0.3) * trail, 0, 1)
    elif kind == "missing":
        ramp = rng.uniform(-1, 1) * (x - (left + right) / 2) + y - (top + bottom) / 2
        faded = 1 if rng.random() < 0.6 else smooth_step(ramp * rng.choice([-1, 1]), -8, 2)
        layers.ink -= block * faded * rng.uniform(0.85, 1)
    elif kind == "displaced":
        tilt = np.deg2rad(rng.choice([-1, 1]) * rng.uniform(9, 15))
        matrix = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        centre = (np.array([top + bottom, left + right]) / 2 + 128) * k
        offset = centre - matrix @ (centre + move)
        moved = [ndimage.affine_transform(layer, matrix, offset, order=1) for layer in block]
        layers.ink = np.maximum(layers.ink - block, moved)
    else:
        row, column = rng.choice(np.argwhere(block[0] > 0.5))
        dx, dy = x - x[row, column], y - y[row, column]
        clot = smooth_step(_inside(rng, dx, dy, rng.uniform(7, 11), 0.35), -0.5, 0.7)
        swollen = np.clip(2.2 * ndimage.gaussian_filter(block[0], 0.9 * k), 0, 1)
        near = smooth_step(-np.hypot(dx, dy), -24, -12)
        layers.ink[0] = np.maximum(layers.ink[0], np.maximum(clot, swollen * near))
    layers.ink *= layers.alpha


# Each kind of defect, and its variants in the order in which its images show them.
DEFECTS: dict[
    str, tuple[Callable[[Layers, np.random.Generator, int, str], None], tuple[str, ...]]
] = {
    "scratch": (scratch, ("score", "slip", "scuff")),
    "stain": (stain, ("oil", "rust", "rim")),
    "hole": (hole, ("bore", "dent", "pits")),
    "missing_piece": (missing_piece, ("corner", "edge", "screw")),
    "misprint": (misprint, ("doubled", "smeared", "missing", "displaced", "clotted")),
}
