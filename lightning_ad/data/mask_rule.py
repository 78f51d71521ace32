"""The one rule by which a mask file says which pixels are defective (stated in docs/metrics.md)."""

from dataclasses import dataclass

import numpy as np

THRESHOLD = 127  # of 255, above which a pixel is bright
LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP")  # formats in which black has noise


@dataclass(frozen=True)
class MaskPixels:
    """The pixels of a mask file.

    Attributes:
        values: float32 [h, w] in 0..255, the highest of the channels.
        opaque: bool [h, w]; None if the file has no alpha.
        is_coloured: it has a palette with colours, one for each class.
        is_lossy: its format changes values.
    """

    values: np.ndarray
    opaque: np.ndarray | None = None
    is_coloured: bool = False
    is_lossy: bool = False

    def brightness(self) -> np.ndarray:
        """Returns float32 [h, w] in 0..255: 0 where it is transparent.

        If all that is opaque is black, it is drawn in black, and counts as 255. If all is opaque,
        or nothing, alpha says nothing.
        """
        opaque = self.opaque
        if opaque is None or opaque.all() or not opaque.any():
            return self.values
        if not self.values[opaque].any():
            return np.where(opaque, np.float32(255), np.float32(0))
        return np.where(opaque, self.values, np.float32(0))


def bright_pixels(pixels: MaskPixels, threshold: int) -> np.ndarray:
    """Returns the bright pixels of a mask, bool [h, w].

    They are above the threshold. With the usual one, `THRESHOLD`, any pixel but a black one is
    bright in a palette of colours, and in a file without values above it: they are numbers of
    classes then, unless its format is lossy.

    Args:
        pixels: of the file.
        threshold: 0 to 255.
    """
    values = pixels.brightness()
    bright = values > threshold
    if threshold != THRESHOLD or pixels.is_lossy:
        return bright
    if pixels.is_coloured or not bright.any():
        return values > 0
    return bright


def same_proportions(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Returns whether a size [h, w] is the other one, scaled and rounded to whole pixels."""
    least = max((side - 0.5) / whole for side, whole in zip(one, other, strict=True))
    most = min((side + 0.5) / whole for side, whole in zip(one, other, strict=True))
    return least <= most
