"""Colour of 16 bits a channel, of which Pillow keeps the upper 8: read twice, for both halves."""

import sys
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from PIL import Image, ImageOps

GREY_OF_MANY_BITS = ("I;16", "I;16B", "I;16L", "I", "F")  # modes that Pillow reads in full
GREY_AND_ALPHA = "LA;16B"
# Pillow's names of the orders of bytes: most significant first, last, and as this machine has it.
BIG = "B"
LITTLE = "L"
NATIVE = "N"
READABLE = ("RGB;16", "RGBA;16", "RGBX;16")
TIFF_BITS = 258  # the tag of the bits of each channel
JPEG2000_START = b"\xff\x4f\xff\x51"
JPEG2000_HEADER = 1 << 16  # bytes in which the start of the pixels is looked for
JPEG2000_BITS = 42  # place of the first channel's depth, counted from the start


class DeepPixels(NamedTuple):
    """The values of an image of 16 bits a channel.

    Attributes:
        values: uint16 [h, w], or [h, w, 3] in RGB.
        alpha: uint8 [h, w], its upper 8 bits; None without.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None

    @classmethod
    def of_channels(cls, channels: np.ndarray) -> Self:
        """Makes the values of channels [h, w, 3 or 4]."""
        alpha = None
        if channels.shape[2] == 4:
            alpha = (channels[:, :, 3] >> 8).astype(np.uint8)
        return cls(channels[:, :, :3], alpha)


def is_deep_colour(image: Image.Image) -> bool:
    """Returns whether an image that was opened, and not yet decoded, has more than 8 bits a channel
    in the file, but not in the mode that Pillow gives it.
    """
    if image.mode in GREY_OF_MANY_BITS or not getattr(image, "tile", None):
        return False
    if image.format == "TIFF":
        bits = image.tag_v2.get(TIFF_BITS, (1,))  # type: ignore[attr-defined]
        return max(bits) > 8
    if image.format == "PPM":
        return _largest_of_ppm(image) > 255
    if image.format == "JPEG2000":
        return _bits_of_jpeg2000(image) > 8
    return ";16" in _arrangement(image) and image.format == "PNG"


def read_deep_colour(path: str, formats: Sequence[str]) -> DeepPixels:
    """Reads an image for which `is_deep_colour` is true, turned as its EXIF says.

    Raises:
        ValueError: if its channels are arranged in another way than those that are known.
    """
    with Image.open(path, formats=formats) as image:
        arrangement = _arrangement(image)
        if image.format == "PPM":
            return _read_ppm(image)
        if arrangement == GREY_AND_ALPHA:
            return _read_grey_and_alpha(image)
    if arrangement[:-1] not in READABLE:
        raise ValueError(
            "it has more than 8 bits a channel, arranged in a way that is not read in full "
            "(export it as PNG of 16 bits)"
        )
    upper = _read_as(path, formats, arrangement)
    lower = _read_as(path, formats, arrangement[:-1] + _other_order(arrangement[-1]))
    return DeepPixels.of_channels(upper.astype(np.uint16) << 8 | lower)


def _arrangement(image: Image.Image) -> str:
    """Returns Pillow's name of how a file's channels are arranged, such as RGB;16B."""
    arguments = image.tile[0][3]  # type: ignore[attr-defined]
    if isinstance(arguments, str):
        return arguments
    return str(arguments[0])


def _other_order(order: str) -> str:
    """Returns the order by which Pillow, which takes one byte of two, takes the lower one."""
    if order == NATIVE:
        order = LITTLE if sys.byteorder == "little" else BIG
    if order == BIG:
        return LITTLE
    return BIG


def _read_as(path: str, formats: Sequence[str], arrangement: str) -> np.ndarray:
    """Decodes a file as if its channels were arranged so."""
    with Image.open(path, formats=formats) as image:
        _rearrange(image, arrangement)
        return np.asarray(ImageOps.exif_transpose(image))


def _rearrange(image: Image.Image, arrangement: str) -> None:
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        make = getattr(type(tile), "_make", tuple)  # a plain tuple before Pillow 11
        arguments = tile[3]
        changed: object = arrangement
        if not isinstance(arguments, str):
            changed = (arrangement, *arguments[1:])
        tiles.append(make((*tile[:3], changed)))
    image.tile = tiles  # type: ignore[attr-defined]


def _read_grey_and_alpha(image: Image.Image) -> DeepPixels:
    """Reads grey and alpha of 16 bits as four bytes."""
    _rearrange(image, "RGBA")
    halves = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
    return DeepPixels(halves[:, :, 0] << 8 | halves[:, :, 1], halves[:, :, 2].astype(np.uint8))


def _largest_of_ppm(image: Image.Image) -> int:
    arguments = image.tile[0][3]  # type: ignore[attr-defined]
    if isinstance(arguments, str):
        return 255
    return int(arguments[1])


def _read_ppm(image: Image.Image) -> DeepPixels:
    """Reads a binary PPM, and scales it to 16 bits as Pillow scales a grey one."""
    codec, _, offset, _ = image.tile[0]  # type: ignore[attr-defined]
    if codec != "ppm":
        raise ValueError("it is a PPM of text with more than 8 bits (export it as PNG of 16 bits)")
    width, height = image.size
    largest = _largest_of_ppm(image)
    count = width * height * 3
    values = np.fromfile(image.filename, ">u2", count, offset=offset)  # type: ignore[attr-defined]
    if len(values) < count:
        raise ValueError("it is cut off")
    scaled = np.rint(values.clip(max=largest) / largest * 65535).astype(np.uint16)
    return DeepPixels(scaled.reshape(height, width, 3))


def _bits_of_jpeg2000(image: Image.Image) -> int:
    with open(image.filename, "rb") as file:  # type: ignore[attr-defined]
        header = file.read(JPEG2000_HEADER)
    start = header.find(JPEG2000_START)
    place = start + JPEG2000_BITS
    if start < 0 or place >= len(header):
        return 8
    return (header[place] & 0x7F) + 1
