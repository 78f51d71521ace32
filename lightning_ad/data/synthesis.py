"""Synthetic anomalies: Perlin noise cut to a mask, filled with a texture (DRAEM, section 3.3)."""

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from perlin_numpy import generate_perlin_noise_2d
from torch import Tensor

from lightning_ad.data.augmenters import augment, draw_augmenters, rotate
from lightning_ad.data.perlin import perlin_noise
from lightning_ad.data.textures import Textures

LARGEST_EXPONENT = 5  # up to 2**5 noise cells along an axis
THRESHOLD = 0.5  # noise above this is an anomaly


@dataclass(frozen=True)
class Synthesis:
    """The choices of DRAEM's released code.

    `draw` runs in the loader's workers, `apply` on the device.

    Attributes:
        anomaly_probability: probability that an anomaly is added; its mask may be empty even then.
        rotate_probability: probability that the good image is rotated first.
        rotate_degrees: the rotation of the good image is uniform in +- this.
        opacity: (low, high) of the texture over the image.
        augmenters: how many of the ten texture augmenters are applied.
        noise: `loader`: each worker makes the noise of its images with perlin-numpy; `device`: it
            draws the gradients alone, and the device makes the noise of the batch. The masks are
            the same up to rounding at their edges.
    """

    anomaly_probability: float = 0.5
    rotate_probability: float = 0.3
    rotate_degrees: float = 90.0
    opacity: tuple[float, float] = (0.2, 1.0)
    augmenters: int = 3
    noise: Literal["loader", "device"] = "loader"

    def held_out(self) -> Self:
        """Returns the same for validation: an anomaly on every image, and no rotation."""
        return replace(self, anomaly_probability=1.0, rotate_probability=0.0)

    def draw(
        self, rng: np.random.Generator, height: int, width: int, textures: Textures
    ) -> dict[str, Tensor]:
        """Draws all that is random for one image: numbers, noise, and the raw texture."""
        angle = self._draw_angle(rng)
        opacity = rng.uniform(*self.opacity)
        kinds, parameters = draw_augmenters(rng, self.augmenters)
        noise = draw_noise(rng)
        laid = rng.random() < self.anomaly_probability
        texture = torch.zeros(3, height, width)
        if laid:
            texture = textures(rng, height, width)
        recipe = {
            "laid": torch.tensor(laid),
            "texture": texture,
            "angle": torch.tensor(angle, dtype=torch.float32),
            "opacity": torch.tensor(opacity, dtype=torch.float32),
            "kinds": torch.from_numpy(kinds),
            "parameters": torch.from_numpy(parameters),
        }
        if self.noise == "device":
            for name, value in noise.items():
                recipe[name] = torch.as_tensor(value)
        elif laid:
            recipe["mask"] = noise_mask(noise, height, width)
        else:
            recipe["mask"] = torch.zeros(height, width, dtype=torch.bool)
        return recipe

    def _draw_angle(self, rng: np.random.Generator) -> float:
        rotated = rng.random() < self.rotate_probability
        if not rotated:
            return 0.0
        return rng.uniform(-self.rotate_degrees, self.rotate_degrees)

    def apply(self, image: Tensor, recipe: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Adds the drawn anomalies to a batch.

        Args:
            image: float32 [B, 3, H, W] in [0, 1], good parts.
            recipe: what `draw` returned, stacked.

        Returns:
            The good image after its rotation (the target of reconstruction) [B, 3, H, W], the same
            with the anomaly [B, 3, H, W], and its mask bool [B, H, W]. In float32, under autocast
            too.
        """
        with torch.autocast(image.device.type, enabled=False):
            normal = _rotated(image, recipe["angle"])
            mask = self._masks(recipe, *image.shape[2:])
            anomalous = _with_texture(normal, mask, recipe)
        return normal, anomalous, mask

    def _masks(self, recipe: dict[str, Tensor], height: int, width: int) -> Tensor:
        """Returns the mask of each row's anomaly, bool [B, height, width]."""
        if self.noise == "loader":
            return recipe["mask"]
        padded = _padded(height, width)
        noise = perlin_noise(recipe["gradients"], recipe["cells"], *padded)
        noise = noise[:, None, :height, :width]
        mask = rotate(noise, recipe["noise_angle"])[:, 0] > THRESHOLD
        return mask & recipe["laid"][:, None, None]


def _rotated(image: Tensor, angle: Tensor) -> Tensor:
    """Rotates the rows of [B, 3, H, W] whose angle, [B] in degrees, is not 0."""
    turned = angle != 0
    if not bool(turned.any()):
        return image
    rotated = image.clone()
    rotated[turned] = rotate(image[turned], angle[turned])
    return rotated


def _with_texture(normal: Tensor, mask: Tensor, recipe: dict[str, Tensor]) -> Tensor:
    """Blends each row's augmented texture into the image where its mask is true."""
    anomalous = normal.clone()
    rows = mask.flatten(1).any(1)
    if not bool(rows.any()):
        return anomalous
    texture = augment(recipe["texture"][rows], recipe["kinds"][rows], recipe["parameters"][rows])
    opacity = recipe["opacity"][rows, None, None, None] * mask[rows, None]
    anomalous[rows] = normal[rows] * (1 - opacity) + texture * opacity
    return anomalous


def draw_noise(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws what Perlin noise is made of: cells along each axis, gradients, and a rotation.

    Returns:
        cells int64 [2], powers of two; gradients, angles in radians, float32 [33, 33]; noise_angle
        in degrees, float32.
    """
    side = 2**LARGEST_EXPONENT + 1
    return {
        "cells": 2 ** rng.integers(0, LARGEST_EXPONENT + 1, size=2),
        "gradients": (2 * np.pi * rng.random((side, side))).astype(np.float32),
        "noise_angle": np.float32(rng.uniform(-90, 90)),
    }


class _DrawnGradients:
    """Hands perlin-numpy gradients that are drawn already, in place of a random generator."""

    def __init__(self, angles: np.ndarray) -> None:
        self.angles = angles

    def uniform(self, size: tuple[int, int]) -> np.ndarray:
        return self.angles[: size[0], : size[1]] / (2 * np.pi)


def noise_mask(drawn: dict[str, np.ndarray], height: int, width: int) -> Tensor:
    """Makes rotated Perlin noise of what `draw_noise` drew; bool [height, width], true above 0.5.

    The noise is made on the next larger multiple of 32, which perlin-numpy asks for, and cut.
    """
    gradients = _DrawnGradients(drawn["gradients"].astype(np.float64))
    cells = tuple(drawn["cells"].tolist())
    noise = generate_perlin_noise_2d(_padded(height, width), cells, rng=gradients)
    cut = noise[:height, :width].astype(np.float32)
    angle = torch.tensor([drawn["noise_angle"]])
    return rotate(torch.from_numpy(cut)[None, None], angle)[0, 0] > THRESHOLD


def _padded(height: int, width: int) -> tuple[int, int]:
    step = 2**LARGEST_EXPONENT
    return -(-height // step) * step, -(-width // step) * step
