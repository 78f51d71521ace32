"""Resizes and crops an image and its mask to the size that a network sees."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.data.reading import check_made_size
from lightning_ad.data.resizing import Resize, resize
from lightning_ad.errors import UsageError

Size = int | list[int]


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Resizes a bool mask [h, w] by nearest neighbour, so that it neither grows nor erodes."""
    if mask.shape[-2:] == (height, width):
        return mask
    batch = mask[None, None].to(torch.uint8)
    resized = F.interpolate(batch, (height, width), mode="nearest-exact")
    return resized[0, 0].bool()


@dataclass(frozen=True)
class Geometry:
    """Resizes, then crops the centre; the same for images and masks.

    Attributes:
        resize_to: [h, w], or the length of the shorter side, which keeps the aspect ratio.
        crop_to: [h, w] of the centre crop, or None.
        interpolation: how images are resized; None for bilinear, with the longer side and the
            place of the crop rounded down, as in runs before this could be set. Otherwise they are
            rounded as torchvision's.
    """

    resize_to: tuple[int, int] | int
    crop_to: tuple[int, int] | None
    interpolation: Resize | None = "bilinear"

    @classmethod
    def of(
        cls, image_size: Size, center_crop: Size | None, interpolation: Resize | None = "bilinear"
    ) -> Self:
        """Makes the geometry of `data.image_size`, `data.center_crop` and `data.resize`.

        Without a crop, one number as the image size makes a square (DRAEM, PFM); with a crop it is
        the shorter side, so that nothing is distorted (PatchCore, PaDiM, SPADE, CFA).

        Raises:
            UsageError: if a size is not positive, or the crop is larger than the image.
        """
        if center_crop is None:
            return cls(_pair("image_size", image_size), None, interpolation)
        crop = _pair("center_crop", center_crop)
        size = _pair("image_size", image_size)
        if crop[0] > size[0] or crop[1] > size[1]:
            raise UsageError(
                f"data.center_crop {center_crop} is larger than data.image_size {image_size}; "
                "add --data.center_crop null (no crop), or a smaller one"
            )
        if isinstance(image_size, int):
            return cls(image_size, crop, interpolation)
        return cls(size, crop, interpolation)

    @property
    def output(self) -> tuple[int, int]:
        """[h, w] of the result."""
        if self.crop_to is not None:
            return self.crop_to
        assert isinstance(self.resize_to, tuple)
        return self.resize_to

    def image(self, image: Tensor) -> Tensor:
        """Brings an image, float32 [3, h, w] in [0, 1], to [3, H, W]."""
        resized = resize(image, *self._target(image), self.interpolation or "bilinear")
        return self._crop(resized).contiguous()

    def mask(self, mask: Tensor) -> Tensor:
        """Brings a mask, bool [h, w], to [H, W]."""
        return self._crop(resize_mask(mask, *self._target(mask)))

    def restore(self, map: Tensor, height: int, width: int) -> Tensor:
        """Brings a map [H, W] back to the geometry of its image, [height, width].

        Values between pixels are bilinear; pixels that the crop has cut off are NaN.
        """
        resized = self._target_size(height, width)
        top, left = self._corner(resized)
        rows = _positions(height, resized[0], map.shape[0], top)
        columns = _positions(width, resized[1], map.shape[1], left)
        within_rows = _interpolate(map, rows).T
        return _interpolate(within_rows, columns).T.contiguous()

    def check(self, height: int, width: int) -> None:
        """Raises DataError if an image of this size would become too large (`limit_size`)."""
        self._target_size(height, width)

    def _target(self, image: Tensor) -> tuple[int, int]:
        return self._target_size(image.shape[-2], image.shape[-1])

    def _target_size(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.resize_to, tuple):
            return self.resize_to
        shorter = self.resize_to
        sides = []
        for side in (height, width):
            sides.append(self._resized_side(side, min(height, width), shorter))
        made = (sides[0], sides[1])
        check_made_size(height, width, made)
        return made

    def _resized_side(self, side: int, shortest: int, shorter: int) -> int:
        if self.interpolation is None:
            return max(shorter, int(side * (shorter / shortest)))
        return int(shorter * side / shortest)

    def _crop(self, image: Tensor) -> Tensor:
        if self.crop_to is None:
            return image
        crop_height, crop_width = self.crop_to
        top, left = self._corner((image.shape[-2], image.shape[-1]))
        return image[..., top : top + crop_height, left : left + crop_width]

    def _corner(self, resized: tuple[int, int]) -> tuple[int, int]:
        """Returns the top and the left of the crop in a resized image."""
        if self.crop_to is None:
            return 0, 0
        margins = (resized[0] - self.crop_to[0], resized[1] - self.crop_to[1])
        if self.interpolation is None:
            return margins[0] // 2, margins[1] // 2
        return round(margins[0] / 2), round(margins[1] / 2)


def _positions(pixels: int, resized: int, mapped: int, cropped: int) -> Tensor:
    """Returns where each pixel of an image's side lies in its map; NaN if it was cropped away.

    Args:
        pixels: of the side.
        resized: pixels of the side once it is resized.
        mapped: pixels of the map.
        cropped: pixels that the crop cuts off before the map.
    """
    centre = torch.arange(pixels, dtype=torch.float64) + 0.5
    place = centre * resized / pixels - 0.5 - cropped
    is_outside = (place < -0.5) | (place > mapped - 0.5)
    return place.clamp(0, mapped - 1).masked_fill(is_outside, torch.nan)


def _interpolate(map: Tensor, positions: Tensor) -> Tensor:
    """Interpolates the rows of a map [n, ...] linearly at positions [m]; NaN at NaN."""
    place = positions.nan_to_num(0)
    above = place.floor().long()
    below = (above + 1).clamp(max=len(map) - 1)
    share = (place - above).to(map)[:, None]
    rows = map[above.to(map.device)] * (1 - share) + map[below.to(map.device)] * share
    rows[positions.isnan().to(map.device)] = torch.nan
    return rows


def _pair(name: str, size: Size) -> tuple[int, int]:
    """Returns [height, width] of a setting that may be one number."""
    pair = size
    if isinstance(pair, int):
        pair = [pair, pair]
    if len(pair) != 2 or min(pair) < 1:
        raise UsageError(
            f"data.{name}: expected one positive number or [height, width], got {size}"
        )
    return pair[0], pair[1]
