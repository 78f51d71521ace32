"""The ten texture augmenters of DRAEM's released code, for a batch, on any device.

Randomness is separate: `draw` gives the numbers that `apply` computes with.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_ad.system.lazy_module import LazyModule

kornia = LazyModule("kornia")  # a second, for DRAEM alone
PARAMETERS = 6  # the most that any augmenter draws


class Augmenter(NamedTuple):
    """One way to change a texture.

    Attributes:
        draw: draws at most `PARAMETERS` numbers for one image.
        apply: changes [n, 3, H, W] in [0, 1], by the parameters [n, PARAMETERS].
    """

    draw: Callable[[np.random.Generator], list[float]]
    apply: Callable[[Tensor, Tensor], Tensor]


def rotate(image: Tensor, degrees: Tensor) -> Tensor:
    """Rotates [n, C, H, W] by [n] degrees about the centre, bilinear, zeros from outside."""
    return kornia.geometry.transform.rotate(image, degrees, align_corners=True)


def _gamma(x: Tensor, parameters: Tensor) -> Tensor:
    exponent = parameters[:, :3, None, None]
    return x**exponent


def _brightness(x: Tensor, parameters: Tensor) -> Tensor:
    factor = parameters[:, 0, None, None]
    offset = parameters[:, 1, None, None]
    hue, saturation, value = kornia.color.rgb_to_hsv(x).unbind(1)
    value = (value * factor + offset).clamp(0, 1)
    return kornia.color.hsv_to_rgb(torch.stack((hue, saturation, value), 1))


def _sharpness(x: Tensor, parameters: Tensor) -> Tensor:
    return kornia.enhance.sharpness(x, parameters[:, 0])


def _hue_saturation(x: Tensor, parameters: Tensor) -> Tensor:
    turn = parameters[:, 0, None, None]
    offset = parameters[:, 1, None, None]
    hue, saturation, value = kornia.color.rgb_to_hsv(x).unbind(1)
    hue = (hue + turn * 2 * torch.pi) % (2 * torch.pi)
    saturation = (saturation + offset).clamp(0, 1)
    return kornia.color.hsv_to_rgb(torch.stack((hue, saturation, value), 1))


def _solarize(x: Tensor, parameters: Tensor) -> Tensor:
    threshold = parameters[:, 0, None, None, None]
    wanted = parameters[:, 1, None, None, None] > 0
    return torch.where((x >= threshold) & wanted, 1 - x, x)


def _posterize(x: Tensor, parameters: Tensor) -> Tensor:
    """Keeps the highest bits of 8-bit values, and makes the others 0."""
    step = 2 ** (8 - parameters[:, 0, None, None, None])
    value = (x * 255).round()
    return (value / step).floor() * step / 255


def _invert(x: Tensor, _: Tensor) -> Tensor:
    return 1 - x


def _autocontrast(x: Tensor, parameters: Tensor) -> Tensor:
    share = parameters[:, 0]
    ordered = x.flatten(2).sort(dim=2).values
    last = ordered.shape[2] - 1
    low = (share * last).long()[:, None, None].expand(-1, 3, 1)
    darkest = ordered.gather(2, low)[..., None]
    lightest = ordered.gather(2, last - low)[..., None]
    spread = lightest - darkest
    stretched = (x - darkest) / spread.clamp_min(1e-6)
    return torch.where(spread > 0, stretched, x).clamp(0, 1)


def _equalize(x: Tensor, _: Tensor) -> Tensor:
    return kornia.enhance.equalize(x)


def _rotate(x: Tensor, parameters: Tensor) -> Tensor:
    return rotate(x, parameters[:, 0])


def _draw_nothing(_: np.random.Generator) -> list[float]:
    return []


# The order is that of the numbers in a recipe.
AUGMENTERS: dict[str, Augmenter] = {
    "gamma": Augmenter(lambda rng: [*rng.uniform(0.5, 2.0, 3)], _gamma),
    "brightness": Augmenter(
        lambda rng: [rng.uniform(0.8, 1.2), rng.uniform(-30, 30) / 255], _brightness
    ),
    "sharpness": Augmenter(lambda rng: [rng.uniform(0.1, 1.9)], _sharpness),
    "hue and saturation": Augmenter(lambda rng: [*rng.uniform(-50, 50, 2) / 255], _hue_saturation),
    "solarize": Augmenter(
        lambda rng: [rng.uniform(32, 128) / 255, float(rng.random() < 0.5)], _solarize
    ),
    "posterize": Augmenter(lambda rng: [float(rng.integers(1, 9))], _posterize),
    "invert": Augmenter(_draw_nothing, _invert),
    "autocontrast": Augmenter(lambda rng: [rng.uniform(0, 0.2)], _autocontrast),
    "equalize": Augmenter(_draw_nothing, _equalize),
    "rotate": Augmenter(lambda rng: [rng.uniform(-45, 45)], _rotate),
}


def draw_augmenters(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws `count` distinct augmenters, in the order of their application.

    Returns:
        Their numbers int64 [count], and their parameters float32 [count, PARAMETERS].
    """
    kinds = rng.permutation(len(AUGMENTERS))[:count]
    augmenters = list(AUGMENTERS.values())
    parameters = np.zeros((count, PARAMETERS), dtype=np.float32)
    for row, kind in enumerate(kinds):
        drawn = augmenters[kind].draw(rng)
        parameters[row, : len(drawn)] = drawn
    return kinds, parameters


def augment(x: Tensor, kinds: Tensor, parameters: Tensor) -> Tensor:
    """Applies each row's own augmenters in its own order.

    Args:
        x: [n, 3, H, W] in [0, 1].
        kinds: [n, count], the numbers of the augmenters.
        parameters: [n, count, PARAMETERS].
    """
    x = x.clone()
    for place in range(kinds.shape[1]):
        for number, augmenter in enumerate(AUGMENTERS.values()):
            rows = (kinds[:, place] == number).nonzero().flatten()
            if len(rows):
                changed = augmenter.apply(x[rows], parameters[rows, place])
                x[rows] = changed.clamp(0, 1)
    return x
