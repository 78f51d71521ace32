"""Simulated anomalies: Perlin noise cut to a mask and filled with a foreign texture (DRAEM, section 3.3)."""

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
THRESHOLD = 0.5  # of the noise, above which there is an anomaly


@dataclass(frozen=True)
class Synthesis:
    """The choices of DRAEM's released code; `draw` runs in the loader's workers, `apply` on the device.

    Attributes:
        anomaly_probability: how often an anomaly is laid on; its mask may be empty even then.
        rotate_probability: how often the good image is rotated first.
        rotate_degrees: the rotation of the good image is uniform in +- this.
        opacity: (low, high) of the texture over the image.
        augmenters: how many of the ten texture augmenters are applied.
        noise: `loader`: each worker makes the noise of its images with perlin-numpy; `device`: it draws gradients
            alone, and the device makes the noise of the batch. The same masks, but for rounding at their edges.
    """

    anomaly_probability: float = 0.5
    rotate_probability: float = 0.3
    rotate_degrees: float = 90.0
    opacity: tuple[float, float] = (0.2, 1.0)
    augmenters: int = 3
    noise: Literal["loader", "device"] = "loader"

    def held_out(self) -> Self:
        """For validation: an anomaly on every image, and no rotation."""
        return replace(self, anomaly_probability=1.0, rotate_probability=0.0)

    def draw(
        self, rng: np.random.Generator, height: int, width: int, textures: Textures
    ) -> dict[str, Tensor]:
        """All that is random for one image: numbers, the noise mask, and the texture before augmentation."""
        rotated = rng.random() < self.rotate_probability
        angle = rng.uniform(-self.rotate_degrees, self.rotate_degrees) if rotated else 0.0
        opacity = rng.uniform(*self.opacity)
        kinds, parameters = draw_augmenters(rng, self.augmenters)
        noise = draw_noise(rng)
        texture, laid = torch.zeros(3, height, width), rng.random() < self.anomaly_probability
        if laid:
            texture = textures(rng, height, width)
        if self.noise == "loader":
            mask = (
                noise_mask(noise, height, width)
                if laid
                else torch.zeros(height, width, dtype=torch.bool)
            )
            noise = {"mask": mask}
        return {
            **{name: torch.as_tensor(value) for name, value in noise.items()},
            "laid": torch.tensor(laid),
            "texture": texture,
            "angle": torch.tensor(angle, dtype=torch.float32),
            "opacity": torch.tensor(opacity, dtype=torch.float32),
            "kinds": torch.from_numpy(kinds),
            "parameters": torch.from_numpy(parameters),
        }

    def apply(self, image: Tensor, recipe: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Lays the drawn anomalies on a batch.

        Args:
            image: float32 [B, 3, H, W] in [0, 1], good parts.
            recipe: what `draw` gave, stacked.

        Returns:
            The good image after its rotation (the target of reconstruction) [B, 3, H, W], the same with the
            anomaly [B, 3, H, W], and its mask bool [B, H, W]. In float32, under autocast too.
        """
        with torch.autocast(image.device.type, enabled=False):
            return self._apply(image, recipe)

    def _apply(self, image: Tensor, recipe: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        normal = image
        if bool((turned := recipe["angle"] != 0).any()):
            normal = image.clone()
            normal[turned] = rotate(image[turned], recipe["angle"][turned])
        mask, anomalous = self._masks(recipe, *image.shape[2:]), normal.clone()
        if bool((rows := mask.flatten(1).any(1)).any()):
            texture = augment(
                recipe["texture"][rows], recipe["kinds"][rows], recipe["parameters"][rows]
            )
            opacity = recipe["opacity"][rows, None, None, None] * mask[rows, None]
            anomalous[rows] = normal[rows] * (1 - opacity) + texture * opacity
        return normal, anomalous, mask

    def _masks(self, recipe: dict[str, Tensor], height: int, width: int) -> Tensor:
        """Where each row's anomaly is, bool [B, height, width]."""
        if self.noise == "loader":
            return recipe["mask"]
        padded = _padded(height, width)
        noise = perlin_noise(recipe["gradients"], recipe["cells"], *padded)[
            :, None, :height, :width
        ]
        mask = rotate(noise, recipe["noise_angle"])[:, 0] > THRESHOLD
        return mask & recipe["laid"][:, None, None]


def draw_noise(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What Perlin noise is made of: cells along each axis, a random power of two, gradients, and a rotation.

    Returns:
        cells int64 [2]; gradients, angles in radians, float32 [33, 33]; noise_angle in degrees, float32.
    """
    side = 2**LARGEST_EXPONENT + 1
    return {
        "cells": 2 ** rng.integers(0, LARGEST_EXPONENT + 1, size=2),
        "gradients": (2 * np.pi * rng.random((side, side))).astype(np.float32),
        "noise_angle": np.float32(rng.uniform(-90, 90)),
    }


class _Given:
    """Hands perlin-numpy gradients that are drawn already, in place of a random generator."""

    def __init__(self, angles: np.ndarray) -> None:
        self.angles = angles

    def uniform(self, size: tuple[int, int]) -> np.ndarray:
        return self.angles[: size[0], : size[1]] / (2 * np.pi)


def noise_mask(drawn: dict[str, np.ndarray], height: int, width: int) -> Tensor:
    """Rotated Perlin noise above 0.5, bool [height, width], by perlin-numpy from what `draw_noise` gave.

    Noise is made on the next larger multiple of 32, which perlin-numpy asks for, and cut.
    """
    gradients = _Given(drawn["gradients"].astype(np.float64))
    noise = generate_perlin_noise_2d(
        _padded(height, width), tuple(drawn["cells"].tolist()), rng=gradients
    )
    image = torch.from_numpy(noise[:height, :width].astype(np.float32))[None, None]
    return rotate(image, torch.tensor([drawn["noise_angle"]]))[0, 0] > THRESHOLD


def _padded(height: int, width: int) -> tuple[int, int]:
    step = 2**LARGEST_EXPONENT
    return -(-height // step) * step, -(-width // step) * step
