"""Resizes images: four ways, each a product with one matrix from each side."""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.system.threads import one_thread

Resize = Literal["bilinear", "bicubic", "lanczos", "linear"]

SHARPNESS = -0.5  # the a of Keys' cubic, as in Pillow
BLOCK = 16  # rows of a matrix that are multiplied together, by the columns in which they are not 0


class Filter(NamedTuple):
    """A filter of antialiased resizing.

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
        # The same as by its matrices except for rounding, and faster.
        resized = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    else:
        resized = _resize_by_matrices(image, height, width, way)
    return resized.clamp_(0, 1)


def resize_matrix(pixels: int, resized: int, way: Resize) -> Tensor:
    """Returns what a side of an image is multiplied with, float32 [resized, pixels].

    An image is resized by `rows @ image @ columns.T`.
    """
    if way == "linear":
        return _linear_matrix(pixels, resized).float()
    return _filter_matrix(pixels, resized, FILTERS[way]).float()


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
    bands = []
    for rows in resize_matrix(pixels, resized, way).split(BLOCK):
        used = rows.any(0).nonzero().flatten()
        first = int(used[0])
        last = int(used[-1]) + 1
        bands.append(_Band(first, last, rows[:, first:last].contiguous()))
    return tuple(bands)


def _linear_matrix(pixels: int, resized: int) -> Tensor:
    """Weights of the two pixels around each place."""
    centres = torch.arange(resized, dtype=torch.float64) + 0.5
    places = (centres * (pixels / resized) - 0.5).clamp(0, pixels - 1)
    before = places.floor().long()
    after = (before + 1).clamp(max=pixels - 1)
    share = (places - before)[:, None]
    matrix = share.new_zeros(resized, pixels)
    matrix.scatter_add_(1, before[:, None], 1 - share)
    matrix.scatter_add_(1, after[:, None], share)
    return matrix


def _filter_matrix(pixels: int, resized: int, filter: Filter) -> Tensor:
    """Weights of a filter, stretched to the pixels of the result if these are larger."""
    scale = pixels / resized
    stretch = max(scale, 1.0)
    centres = (torch.arange(resized, dtype=torch.float64) + 0.5) * scale
    places = torch.arange(pixels, dtype=torch.float64) + 0.5
    distances = (places - centres[:, None]) / stretch
    weights = filter.weights(distances)
    weights = torch.where(distances.abs() < filter.reach, weights, 0)
    return weights / weights.sum(1, keepdim=True)


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


FILTERS: dict[str, Filter] = {
    "bilinear": Filter(1.0, _triangle),
    "bicubic": Filter(2.0, _cubic),
    "lanczos": Filter(3.0, _lanczos),
}
