"""Textures that fill synthetic anomalies: a folder of photographs, or noise."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from perlin_numpy import generate_fractal_noise_2d
from torch import Tensor

from lightning_ad.data.listing import images, noting_passed_over
from lightning_ad.data.reading import read_image
from lightning_ad.data.resizing import Resize, resize
from lightning_ad.errors import DataError


class Textures(Protocol):
    """A source of textures."""

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Tensor:
        """Draws a texture with `rng`, float32 [3, height, width] in [0, 1]."""


def texture_source(folder: str | None, way: Resize = "bilinear") -> Textures:
    """Returns the photographs of `data.textures`, or procedural noise if it is null.

    Args:
        folder: of photographs, or None.
        way: in which photographs are resized.

    Raises:
        DataError: if the folder is missing or holds no image.
    """
    if folder is not None:
        return TextureFolder(folder, way)
    rank_zero_info(
        "No data.textures given: synthetic anomalies are filled with procedural noise. "
        "Photographs of textures (DTD) give better results."
    )
    return NoiseTextures()


class TextureFolder:
    """Photographs anywhere below a folder (DTD: `dtd/images/<class>/*.jpg`), resized, not cropped.

    Raises:
        DataError: if the folder is missing or holds no image.
    """

    def __init__(self, folder: str, way: Resize = "bilinear") -> None:
        self.way: Resize = way
        self.paths: list[Path] = []
        if Path(folder).is_dir():
            with noting_passed_over():
                self.paths = images(Path(folder), recursive=True)
        if not self.paths:
            raise DataError(
                f"no image below {folder} (data.textures); expected photographs of textures"
            )

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Tensor:
        """Draws one of the photographs."""
        path = self.paths[rng.integers(len(self.paths))]
        return resize(read_image(str(path)), height, width, self.way).contiguous()


class NoiseTextures:
    """Fractal Perlin noise mapped through a random palette, sometimes banded.

    For the demo, tests, and whoever has no photographs: these give better results.
    """

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Tensor:
        """Draws a texture of two to four colours."""
        noise = _fractal_noise(rng, height, width)
        banded = rng.random() < 0.5
        if banded:
            noise = np.sin(noise * rng.uniform(2, 12))
        level = (noise - noise.min()) / max(float(np.ptp(noise)), 1e-6)
        palette = rng.random((int(rng.integers(2, 5)), 3))
        stops = np.linspace(0, 1, len(palette))
        channels = [np.interp(level, stops, palette[:, channel]) for channel in range(3)]
        return torch.from_numpy(np.stack(channels).astype(np.float32))


def _fractal_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws noise [height, width], cut from the next size that perlin-numpy can make."""
    octaves = int(rng.integers(1, 4))
    cells = 2 ** rng.integers(0, 4, size=2)
    step_y, step_x = cells * 2 ** (octaves - 1)
    padded = (-(-height // step_y) * step_y, -(-width // step_x) * step_x)
    noise = generate_fractal_noise_2d(padded, tuple(cells), octaves, rng=rng)
    return noise[:height, :width]
