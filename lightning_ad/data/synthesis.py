"""Simulated anomalies: Perlin noise cut to a mask and filled with a foreign texture (DRAEM, section 3.3)."""

from dataclasses import dataclass

import numpy as np
import torch
from perlin_numpy import generate_perlin_noise_2d
from torch import Tensor

from lightning_ad.data.augmenters import augment, draw_augmenters, rotate
from lightning_ad.data.textures import Textures

LARGEST_EXPONENT = 5  # up to 2**5 noise cells along an axis


@dataclass(frozen=True)
class Synthesis:
    """The choices of DRAEM's released code; `draw` runs in the loader's workers, `apply` on the device.

    Attributes:
        anomaly_probability: how often an anomaly is laid on; its mask may be empty even then.
        rotate_probability: how often the good image is rotated first.
        rotate_degrees: the rotation of the good image is uniform in +- this.
        opacity: (low, high) of the texture over the image.
        augmenters: how many of the ten texture augmenters are applied.
    """

    anomaly_probability: float = 0.5
    rotate_probability: float = 0.3
    rotate_degrees: float = 90.0
    opacity: tuple[float, float] = (0.2, 1.0)
    augmenters: int = 3

    def draw(self, rng: np.random.Generator, height: int, width: int, textures: Textures | None) -> dict[str, Tensor]:
        """All that is random for one image: numbers, the noise mask, and the texture before augmentation."""
        if textures is None:
            raise ValueError("synthesis needs textures")
        rotated = rng.random() < self.rotate_probability
        angle = rng.uniform(-self.rotate_degrees, self.rotate_degrees) if rotated else 0.0
        opacity = rng.uniform(*self.opacity)
        kinds, parameters = draw_augmenters(rng, self.augmenters)
        mask, texture = torch.zeros(height, width, dtype=torch.bool), torch.zeros(3, height, width)
        if rng.random() < self.anomaly_probability:
            mask = noise_mask(rng, height, width)
            texture = textures(rng, height, width)
        return {
            "mask": mask,
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
            anomaly [B, 3, H, W], and its mask bool [B, H, W].
        """
        normal = image
        if bool((turned := recipe["angle"] != 0).any()):
            normal = image.clone()
            normal[turned] = rotate(image[turned], recipe["angle"][turned])
        mask, anomalous = recipe["mask"], normal.clone()
        if bool((rows := mask.flatten(1).any(1)).any()):
            texture = augment(recipe["texture"][rows], recipe["kinds"][rows], recipe["parameters"][rows])
            opacity = recipe["opacity"][rows, None, None, None] * mask[rows, None]
            anomalous[rows] = normal[rows] * (1 - opacity) + texture * opacity
        return normal, anomalous, mask


def noise_mask(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """Rotated Perlin noise above 0.5, bool [height, width]; cells along each axis are a random power of two.

    Noise is made on the next larger multiple of 32, which perlin-numpy asks for, and cut.
    """
    cells = 2 ** rng.integers(0, LARGEST_EXPONENT + 1, size=2)
    step = 2**LARGEST_EXPONENT
    shape = (-(-height // step) * step, -(-width // step) * step)
    noise = generate_perlin_noise_2d(shape, tuple(cells.tolist()), rng=rng)[:height, :width]
    angle = torch.tensor([rng.uniform(-90, 90)], dtype=torch.float32)
    return rotate(torch.from_numpy(noise.astype(np.float32))[None, None], angle)[0, 0] > 0.5
