"""Where the texture of a synthetic anomaly comes from: a folder of photographs, or noise."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from perlin_numpy import generate_fractal_noise_2d
from torch import Tensor

from lightning_ad.data.geometry import resize
from lightning_ad.data.layouts._files import images
from lightning_ad.data.reading import read_image
from lightning_ad.errors import DataError


class Textures(Protocol):
    """A source of textures."""

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Tensor:
        """A texture drawn with `rng`, float32 [3, height, width] in [0, 1]."""


class TextureFolder:
    """Photographs anywhere below a folder (DTD: `dtd/images/<class>/*.jpg`), resized without a crop.

    Raises:
        DataError: where the folder is missing or holds no image.
    """

    def __init__(self, folder: str) -> None:
        self.paths = images(Path(folder), recursive=True) if Path(folder).is_dir() else []
        if not self.paths:
            raise DataError(
                f"no image below {folder} (data.textures); expected photographs of textures"
            )

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Tensor:
        """One of the photographs."""
        return resize(
            read_image(str(self.paths[rng.integers(len(self.paths))])), height, width
        ).contiguous()


class NoiseTextures:
    """Fractal Perlin noise mapped through a random palette, sometimes banded: for where no photographs are at hand.

    Results suffer against photographs; they are for the demo and for tests.
    """

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Tensor:
        """A texture of two to four colours."""
        octaves, cells = int(rng.integers(1, 4)), 2 ** rng.integers(0, 4, size=2)
        unit = cells * 2 ** (octaves - 1)
        shape = tuple(
            -(-side // step) * step for side, step in zip((height, width), unit, strict=True)
        )
        noise = generate_fractal_noise_2d(shape, tuple(cells), octaves, rng=rng)[:height, :width]
        if rng.random() < 0.5:
            noise = np.sin(noise * rng.uniform(2, 12))
        level = (noise - noise.min()) / max(float(np.ptp(noise)), 1e-6)
        palette = rng.random((int(rng.integers(2, 5)), 3))
        stops = np.linspace(0, 1, len(palette))
        channels = [np.interp(level, stops, palette[:, c]) for c in range(3)]
        return torch.from_numpy(np.stack(channels).astype(np.float32))
