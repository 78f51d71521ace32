"""The ten texture augmenters of DRAEM's released code, for a batch with one draw a row, on any device.

Randomness is apart: `draw` gives the numbers that `apply` computes with.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from kornia.color import hsv_to_rgb, rgb_to_hsv
from kornia.enhance import equalize, sharpness
from kornia.geometry.transform import rotate as kornia_rotate
from torch import Tensor

PARAMETERS = 6  # the most that any augmenter draws


class Augmenter(NamedTuple):
    """`draw` gives at most `PARAMETERS` numbers; `apply` takes [n, 3, H, W] in [0, 1] and [n, PARAMETERS]."""

    draw: Callable[[np.random.Generator], list[float]]
    apply: Callable[[Tensor, Tensor], Tensor]


def rotate(image: Tensor, degrees: Tensor) -> Tensor:
    """Rotates [n, C, H, W] by [n] degrees about the centre, bilinear, zeros from outside."""
    return kornia_rotate(image, degrees, align_corners=True)


def _gamma(x: Tensor, p: Tensor) -> Tensor:
    return x ** p[:, :3, None, None]


def _brightness(x: Tensor, p: Tensor) -> Tensor:
    hue, saturation, value = rgb_to_hsv(x).unbind(1)
    value = (value * p[:, 0, None, None] + p[:, 1, None, None]).clamp(0, 1)
    return hsv_to_rgb(torch.stack((hue, saturation, value), 1))


def _hue_saturation(x: Tensor, p: Tensor) -> Tensor:
    hue, saturation, value = rgb_to_hsv(x).unbind(1)
    hue = (hue + p[:, 0, None, None] * 2 * torch.pi) % (2 * torch.pi)
    saturation = (saturation + p[:, 1, None, None]).clamp(0, 1)
    return hsv_to_rgb(torch.stack((hue, saturation, value), 1))


def _solarize(x: Tensor, p: Tensor) -> Tensor:
    return torch.where((x >= p[:, 0, None, None, None]) & (p[:, 1, None, None, None] > 0), 1 - x, x)


def _posterize(x: Tensor, p: Tensor) -> Tensor:
    levels = 2 ** p[:, 0, None, None, None]
    return ((x * levels).floor().minimum(levels - 1) + 0.5) / levels


def _autocontrast(x: Tensor, p: Tensor) -> Tensor:
    flat, cut = x.flatten(2).sort(dim=2).values, p[:, 0]
    last = flat.shape[2] - 1
    low = (cut * last).long()[:, None, None].expand(-1, 3, 1)
    darkest, lightest = flat.gather(2, low)[..., None], flat.gather(2, last - low)[..., None]
    spread = lightest - darkest
    return torch.where(spread > 0, (x - darkest) / spread.clamp_min(1e-6), x).clamp(0, 1)


AUGMENTERS: dict[str, Augmenter] = {
    "gamma": Augmenter(lambda g: [*g.uniform(0.5, 2.0, 3)], _gamma),
    "brightness": Augmenter(lambda g: [g.uniform(0.8, 1.2), g.uniform(-30, 30) / 255], _brightness),
    "sharpness": Augmenter(lambda g: [g.uniform(0.1, 1.9)], lambda x, p: sharpness(x, p[:, 0])),
    "hue and saturation": Augmenter(lambda g: [*g.uniform(-50, 50, 2) / 255], _hue_saturation),
    "solarize": Augmenter(lambda g: [g.uniform(32, 128) / 255, float(g.random() < 0.5)], _solarize),
    "posterize": Augmenter(lambda g: [float(g.integers(1, 9))], _posterize),
    "invert": Augmenter(lambda g: [], lambda x, p: 1 - x),
    "autocontrast": Augmenter(lambda g: [g.uniform(0, 0.2)], _autocontrast),
    "equalize": Augmenter(lambda g: [], lambda x, p: equalize(x)),
    "rotate": Augmenter(lambda g: [g.uniform(-45, 45)], lambda x, p: rotate(x, p[:, 0])),
}


def draw_augmenters(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` distinct augmenters in the order drawn: their numbers [count] and parameters [count, PARAMETERS]."""
    kinds = rng.permutation(len(AUGMENTERS))[:count]
    table = list(AUGMENTERS.values())
    parameters = np.zeros((count, PARAMETERS), dtype=np.float32)
    for row, kind in enumerate(kinds):
        drawn = table[kind].draw(rng)
        parameters[row, : len(drawn)] = drawn
    return kinds, parameters


def augment(x: Tensor, kinds: Tensor, parameters: Tensor) -> Tensor:
    """Applies each row's own augmenters in its own order; [n, 3, H, W], [n, count], [n, count, PARAMETERS]."""
    x = x.clone()
    for place in range(kinds.shape[1]):
        for number, augmenter in enumerate(AUGMENTERS.values()):
            rows = (kinds[:, place] == number).nonzero().flatten()
            if len(rows):
                x[rows] = augmenter.apply(x[rows], parameters[rows, place]).clamp(0, 1)
    return x
