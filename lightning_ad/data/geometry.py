"""The one geometry: how an image and its mask come to the size that a network sees."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.errors import UsageError

Size = int | list[int]


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize with antialiasing; [C, h, w] or [B, C, h, w] in, the same with [height, width] out.

    Training, evaluation and prediction all come through here. Values stay within [0, 1].
    """
    if image.shape[-2:] == (height, width):
        return image
    if image.shape[-3] > 1 and image.stride(-3) == 0:  # a grey image
        return resize(image[..., :1, :, :], height, width).expand(*image.shape[:-2], height, width)
    batch = image if image.ndim == 4 else image[None]
    out = F.interpolate(batch, (height, width), mode="bilinear", antialias=True).clamp_(0, 1)
    return out if image.ndim == 4 else out[0]


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour resize of a bool mask [h, w]: what was true stays true, nothing grows or erodes."""
    if mask.shape[-2:] == (height, width):
        return mask
    return F.interpolate(mask[None, None].to(torch.uint8), (height, width), mode="nearest-exact")[
        0, 0
    ].bool()


@dataclass(frozen=True)
class Geometry:
    """Resize, then centre crop; the same for images and masks.

    Attributes:
        resize_to: [h, w], or one number. Without a crop, one number makes a square (DRAEM, PFM); with a crop it
            is the shorter side, so that nothing is distorted (PatchCore, PaDiM, SPADE, CFA).
        crop_to: [h, w] of the centre crop, or None.
    """

    resize_to: tuple[int, int] | int
    crop_to: tuple[int, int] | None

    @classmethod
    def of(cls, image_size: Size, center_crop: Size | None) -> Self:
        """From `data.image_size` and `data.center_crop`.

        Raises:
            UsageError: for sizes that are not positive, or a crop larger than the image.
        """
        crop = None if center_crop is None else _pair("center_crop", center_crop)
        if crop is not None and isinstance(image_size, int):
            size: tuple[int, int] | int = _pair("image_size", image_size)[0]
            smallest = (size, size)
        else:
            size = smallest = _pair("image_size", image_size)
        if crop is not None and (crop[0] > smallest[0] or crop[1] > smallest[1]):
            raise UsageError(
                f"data.center_crop {center_crop} is larger than data.image_size {image_size}; "
                "add --data.center_crop null (no crop), or a smaller one"
            )
        return cls(size, crop)

    @property
    def output(self) -> tuple[int, int]:
        """[h, w] of what comes out."""
        if self.crop_to is not None:
            return self.crop_to
        assert isinstance(self.resize_to, tuple)
        return self.resize_to

    def image(self, image: Tensor) -> Tensor:
        """float32 [3, h, w] in [0, 1] of any size to [3, H, W]."""
        return self._crop(resize(image, *self._target(image))).contiguous()

    def mask(self, mask: Tensor) -> Tensor:
        """bool [h, w] of any size to [H, W]."""
        return self._crop(resize_mask(mask, *self._target(mask)))

    def _target(self, image: Tensor) -> tuple[int, int]:
        if isinstance(self.resize_to, tuple):
            return self.resize_to
        height, width = image.shape[-2:]
        scale = self.resize_to / min(height, width)
        return max(self.resize_to, int(height * scale)), max(self.resize_to, int(width * scale))

    def _crop(self, image: Tensor) -> Tensor:
        if self.crop_to is None:
            return image
        top, left = (
            (have - want) // 2 for have, want in zip(image.shape[-2:], self.crop_to, strict=True)
        )
        return image[..., top : top + self.crop_to[0], left : left + self.crop_to[1]]


def _pair(name: str, size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    if (not isinstance(size, int) and len(size) != 2) or height < 1 or width < 1:
        raise UsageError(f"data.{name} is {size}; expected one positive number or [height, width]")
    return height, width
