"""Resizes images: four ways, each a product with one matrix from each side."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.system.threads import one_thread

Resize = Literal["bilinear", "bicubic", "lanczos", "linear"]

SHARPNESS = -0.5  # the a of Keys' cubic, as in Pillow
BLOCK = 16  # rows of a matrix that are multiplied together, without the columns where all are 0


class Filter(NamedTuple):
    """A filter of resizing; the antialiased ways stretch it.

    Attributes:
        reach: pixels of the result beyond which its weights are 0.
        weights: of distances in pixels of the result, not yet normalised.
    """

    reach: float
    weights: Callable[[Tensor], Tensor]


class _Band(NamedTuple):
    """A few rows of a matrix [rows, last - first]: the columns outside are 0."""

    first: int
    last: int
    weights: Tensor


def resize(image: Tensor, height: int, width: int, way: Resize = "bilinear") -> Tensor:
    """Resizes [C, h, w] or [B, C, h, w] in float32; values stay in [0, 1].

    Training, evaluation and prediction all resize by this function.

    Args:
        image: in [0, 1].
        height: of the result.
        width: of the result.
        way: bilinear, bicubic and lanczos are antialiased, as Pillow's of these names; linear is
            not, as OpenCV's of this name. Nothing is rounded to 8 bits.
    """
    if image.shape[-2:] == (height, width):
        return image
    if image.ndim == 3:
        return resize(image[None], height, width, way)[0]
    is_grey = image.shape[1] > 1 and image.stride(1) == 0  # its channels share their memory
    if is_grey:
        one_channel = resize(image[:, :1], height, width, way)
        return one_channel.expand(*image.shape[:2], height, width)
    if way == "bilinear":
        # As by its matrices except for rounding, and to the bits of all earlier versions.
        resized = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    else:
        resized = _resize_by_matrices(image, height, width, way)
    return resized.clamp_(0, 1)


def resize_matrix(pixels: int, resized: int, way: Resize) -> Tensor:
    """Returns what a side of an image is multiplied with, float32 [resized, pixels].

    An image is resized by `rows @ image @ columns.T`.
    """
    matrix = torch.zeros(resized, pixels)
    rows = matrix.split(BLOCK)
    for own, band in zip(rows, _bands(pixels, resized, way), strict=True):
        own[:, band.first : band.last] = band.weights
    return matrix


def _resize_by_matrices(image: Tensor, height: int, width: int, way: Resize) -> Tensor:
    rows = _bands(image.shape[-2], height, way)
    columns = _bands(image.shape[-1], width, way)
    with one_thread():  # the same bits in every worker
        narrow = [image[..., b.first : b.last] @ b.weights.T for b in columns]
        across = torch.cat(narrow, -1)
        low = [b.weights @ across[..., b.first : b.last, :] for b in rows]
        return torch.cat(low, -2)


@lru_cache(64)
def _bands(pixels: int, resized: int, way: Resize) -> tuple[_Band, ...]:
    """Returns the rows of a matrix, `BLOCK` of them together; places are in float64."""
    scale = pixels / resized
    centres = (torch.arange(resized, dtype=torch.float64) + 0.5) * scale
    stretch = max(scale, 1.0)  # of the filter, to the pixels of the result if these are larger
    if way == "linear":
        centres = centres.clamp(0.5, pixels - 0.5)
        stretch = 1.0
    return tuple(_band(part, pixels, stretch, FILTERS[way]) for part in centres.split(BLOCK))


def _band(centres: Tensor, pixels: int, stretch: float, filter: Filter) -> _Band:
    """Returns the rows of a few places in the image, ascending."""
    reach = filter.reach * stretch
    first = max(0, math.floor(float(centres[0]) - reach))
    last = min(pixels, math.ceil(float(centres[-1]) + reach))
    places = torch.arange(first, last, dtype=torch.float64) + 0.5
    distances = (places - centres[:, None]) / stretch
    weights = filter.weights(distances)
    weights = torch.where(distances.abs() < filter.reach, weights, 0)
    normalised = weights / weights.sum(1, keepdim=True)
    return _Band(first, last, normalised.float())


def _triangle(distance: Tensor) -> Tensor:
    return 1 - distance.abs()


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution (IEEE Transactions on Acoustics, 1981)."""
    x = distance.abs()
    near = ((SHARPNESS + 2) * x - (SHARPNESS + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * SHARPNESS
    return torch.where(x < 1, near, far)


def _lanczos(distance: Tensor) -> Tensor:
    return torch.sinc(distance) * torch.sinc(distance / 3)


FILTERS: dict[Resize, Filter] = {
    "linear": Filter(1.0, _triangle),
    "bilinear": Filter(1.0, _triangle),
    "bicubic": Filter(2.0, _cubic),
    "lanczos": Filter(3.0, _lanczos),
}
