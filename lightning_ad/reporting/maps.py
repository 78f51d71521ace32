"""Anomaly maps on disk: 16-bit grey PNG that any viewer shows, with the raw values recoverable."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from lightning_ad.errors import DataError
from lightning_ad.system.files import naming

LEVELS = 65535


def write_map(path: str | Path, map: Tensor) -> None:
    """Writes `map` float32 [H, W]; missing folders are made.

    Grey level g stands for `offset + scale * g`; both numbers are text chunks of the file. A value
    is read back with an error of at most (highest - lowest) / 65535 / 2, plus float32 rounding.

    Raises:
        ValueError: if `map` is not [H, W], or holds NaN or infinite values.
        OSError: naming the file, if it cannot be written.
    """
    values = map.detach().cpu().numpy().astype(np.float64)
    if values.ndim != 2:
        raise ValueError(f"expected a map [H, W], got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"the map for {path} holds NaN or infinite values")
    offset = float(values.min())
    scale = float(values.max() - offset) / LEVELS
    levels = np.rint((values - offset) / (scale or 1.0)).astype(np.uint16)

    text = PngImagePlugin.PngInfo()
    text.add_text("Description", "anomaly map: value = offset + scale * grey level")
    text.add_text("offset", repr(offset))
    text.add_text("scale", repr(scale))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with naming(Path(path)):
        Image.fromarray(levels).save(path, format="PNG", pnginfo=text, compress_level=1)


def read_map(path: str | Path) -> Tensor:
    """Reads the raw values that `write_map` was given: float32 [H, W].

    Raises:
        DataError: if the file cannot be read, or is no anomaly map.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            levels = np.asarray(image).astype(np.float64)
            offset = float(image.info["offset"])
            scale = float(image.info["scale"])
    except OSError as error:
        raise DataError(f"cannot read the anomaly map {path}: {error}") from error
    except KeyError as error:
        raise DataError(f"{path} is no anomaly map: it lacks the PNG text chunk {error}") from error
    return torch.from_numpy((offset + scale * levels).astype(np.float32))
