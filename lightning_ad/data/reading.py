"""Reads an image or a mask from disk as a tensor."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lightning_ad.data.deep_colour import GREY_OF_MANY_BITS, is_deep_colour, read_deep_colour
from lightning_ad.data.listing import images
from lightning_ad.data.mask_rule import (
    LOSSY,
    THRESHOLD,
    MaskPixels,
    bright_pixels,
    same_proportions,
)
from lightning_ad.data.sample import NEVER_DEFECTIVE, MaskReading, Regions, Sample, Saturation
from lightning_ad.errors import DataError
from lightning_ad.system.paths import user_path

MEGAPIXELS = 200.0  # the most that an image may have, unless `limit_size` sets another limit
ORIENTATION = 274  # the EXIF tag
FIRST_ON_ITS_SIDE = 5  # orientations from here on swap height and width
JPEG_END = b"\xff\xd9"
TAIL = 1 << 16  # bytes in which a JPEG's end is looked for: programs write notes behind it
GREY_MODES = ("1", "L", "LA")
PALETTE_MODES = ("P", "PA")
OPAQUE = 127  # alpha above which a pixel of a mask is opaque
# Pillow opens a file by its content: some of its other formats start a program.
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP", "PPM")
LEGACY = (
    "legacy"  # as versions before `data.bits` read images, and before `data.mask_reading` masks
)
FULL_DEPTH = 16  # bits that a file of more than 8 bits a channel can hold

Bits = int | Literal["legacy"]  # of the values in a file of 16 bits
ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor

INTEGER_MODES = tuple(mode for mode in GREY_OF_MANY_BITS if mode != "F")
_most_pixels = MEGAPIXELS * 1e6


def limit_size(megapixels: float) -> None:
    """Refuses larger images from here on, in this process: a small file may hold a huge one."""
    global _most_pixels
    _most_pixels = megapixels * 1e6
    # Pillow's own limit must not come first.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, int(_most_pixels))


def check_made_size(height: int, width: int, made: tuple[int, int]) -> None:
    """Raises DataError if a resize makes an image larger than `limit_size` allows.

    Args:
        height: of the image.
        width: of the image.
        made: [h, w] after the resize.
    """
    if made[0] * made[1] > _most_pixels:
        raise DataError(
            f"an image of {width} x {height} px becomes {made[1]} x {made[0]} px if its shorter "
            f"side becomes {min(made)} px, as it does with data.center_crop, "
            f"{made[0] * made[1] / 1e6:.4g} megapixels; more than {_most_pixels / 1e6:.4g} are "
            "refused. Take it out, add --data.center_crop null, or raise data.max_megapixels"
        )


def read_image(path: str, bits: Bits = FULL_DEPTH) -> Tensor:
    """Reads an image file as float32 [3, h, w] in [0, 1], RGB.

    EXIF rotation is applied, alpha dropped. The channels of a grey image are one and the same, in
    memory too.

    Args:
        path: the file.
        bits: of the values in a file of 16 bits a channel, 8 to 16: the largest that they can hold
            becomes 1. `legacy`: 16, and of colour only the upper 8 are read.

    Raises:
        DataError: naming the file, if it is missing, truncated or no image, or has larger values.
    """
    return _image_tensor(_read_array(path, "image", bits), path, bits)


def has_16_bits(path: str) -> bool:
    """Returns whether an image file holds integers of more than 8 bits a channel, by its header.

    Raises:
        DataError: naming the file, if it cannot be read.
    """
    with _opened(path, "image") as file:
        return file.mode in INTEGER_MODES or is_deep_colour(file)


def highest_value(path: str) -> int:
    """Returns the highest value in an image file, of any channel but alpha.

    Raises:
        DataError: naming the file, if it cannot be read.
    """
    return int(_read_array(path, "image").max())


def as_image(image: ImageLike, bits: Bits = FULL_DEPTH) -> Tensor:
    """Returns an image that is given in any usual form as float32 [3, h, w] in [0, 1], RGB.

    Args:
        image: a path; a PIL image; an array or tensor of uint8, uint16 or floats in [0, 1], grey
            [h, w], or RGB as [h, w, 3] for an array and as [3, h, w] for a tensor.
        bits: of the values in a file or an array of 16 bits (`read_image`).

    Raises:
        DataError: if it is none of these, or a file cannot be read, or has larger values.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(str(user_path(image)), bits)
    if isinstance(image, Image.Image):
        return _of_pillow(image, bits)
    if not isinstance(image, np.ndarray | Tensor):
        raise DataError(
            "expected an image: a path, a PIL image, an array or a tensor; "
            f"got {type(image).__name__}"
        )
    return _image_tensor(_given_array(image), "the image", bits)


def _of_pillow(image: Image.Image, bits: Bits) -> Tensor:
    path = getattr(image, "filename", "")
    if path and is_deep_colour(image):  # not yet decoded, and Pillow would not in full
        return read_image(path, bits)
    return _image_tensor(_pixels(image), "the image", bits)


def _given_array(image: np.ndarray | Tensor) -> np.ndarray:
    """Returns an image as an array [h, w] or [h, w, 3] of a type whose range is known."""
    array = _channels_last(image) if isinstance(image, Tensor) else image
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_grey = array.ndim == 2
    is_rgb = array.ndim == 3 and array.shape[2] == 3
    if array.size == 0 or not (is_grey or is_rgb):
        raise DataError(
            f"expected an image of one or three channels, an array [h, w, 3] or [h, w] or a tensor "
            f"[3, h, w], got {type(image).__name__} {list(image.shape)}"
        )
    if array.dtype.kind != "f" and array.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"expected an image of uint8, uint16 or floats in [0, 1], got {array.dtype}: "
            "convert it, by astype('uint8') if its values go from 0 to 255"
        )
    return array


def _channels_last(image: Tensor) -> np.ndarray:
    if image.is_floating_point():
        image = image.float()  # NumPy has no bfloat16
    array = image.detach().cpu().numpy()
    if array.ndim == 3:
        return array.transpose(1, 2, 0)
    return array


def read_mask(
    path: str,
    size: tuple[int, int],
    threshold: int = THRESHOLD,
    ignore: int | None = None,
    reading: MaskReading = "bright",
) -> Tensor:
    """Reads a mask file as bool [h, w], true where its image is defective.

    For a folder, returns the union of its masks. A mask of another size, but of the same
    proportions, is resized by nearest neighbour.

    Args:
        path: the file, or a folder of files (*.png).
        size: [h, w] of the image.
        threshold: of 255, above which a pixel is bright (`mask_rule`); 255 for a mask of which no
            pixel counts.
        ignore: the value of pixels that are not defective, whatever `reading` says.
        reading: whether bright or dark pixels are defective; `legacy`: pixels above the threshold
            in any channel, with alpha dropped.

    Raises:
        DataError: naming the file, if it cannot be read, its proportions are not those of its
            image, or it has values, but none above the threshold; or for a folder without masks.
    """
    if Path(path).is_dir():
        masks = [read_mask(file, size, threshold, ignore, reading) for file in _masks_in(path)]
        return torch.stack(masks).any(0)
    if reading == LEGACY:
        return _read_legacy_mask(path, size, threshold, ignore)
    pixels = _mask_pixels(path)
    ignored = np.zeros(pixels.values.shape, bool)
    if ignore is not None:
        ignored = _equal(pixels.values, ignore)
        pixels = replace(pixels, values=np.where(ignored, np.float32(0), pixels.values))
    mask = bright_pixels(pixels, threshold)
    _check_not_all_dark(path, pixels.values, threshold, mask)
    if reading == "dark" and threshold < NEVER_DEFECTIVE:
        mask = ~mask & ~ignored
    return _fitted(torch.from_numpy(mask), path, size)


def read_sample_mask(sample: Sample, size: tuple[int, int]) -> Tensor:
    """Reads the mask of a sample that has one, as `read_mask` does."""
    assert sample.mask_path is not None
    return read_mask(
        sample.mask_path, size, sample.mask_threshold, sample.ignore_value, sample.mask_reading
    )


def _read_legacy_mask(
    path: str, size: tuple[int, int], threshold: int, ignore: int | None
) -> Tensor:
    values = _mask_values(path, size)
    if ignore is not None:
        values[_equal(values, ignore)] = 0
    mask = values > threshold
    _check_not_all_dark(path, values, threshold, mask)
    return torch.from_numpy(mask)


def _check_not_all_dark(path: str, values: np.ndarray, threshold: int, mask: np.ndarray) -> None:
    if threshold < NEVER_DEFECTIVE and values.max() > 0 and not mask.any():
        raise DataError(
            f"the mask {path} has values up to {values.max():.0f}, none above {threshold}; "
            "expected 0 and 255 (in the layout 'folder', data.layout_options.mask_threshold 0 "
            "takes any value)"
        )


def _mask_pixels(path: str) -> MaskPixels:
    with _opened(path, "mask") as file:
        is_lossy = file.format in LOSSY
        has_palette = file.mode in PALETTE_MODES
        if is_deep_colour(file):
            deep = read_deep_colour(path, FORMATS)
            array = deep.values
            alpha = deep.alpha
        else:
            array = _pixels(file)
            alpha = _alpha(file)
    opaque = None if alpha is None else alpha > OPAQUE
    is_coloured = has_palette and array.ndim == 3 and bool((array != array[:, :, :1]).any())
    return MaskPixels(_as_255(array, path), opaque, is_coloured, is_lossy)


def _alpha(image: Image.Image) -> np.ndarray | None:
    if image.mode in GREY_OF_MANY_BITS or not image.has_transparency_data:
        return None
    return np.asarray(ImageOps.exif_transpose(image).convert("RGBA").getchannel("A"))


def _as_255(array: np.ndarray, path: str) -> np.ndarray:
    """Returns the values of a mask as float32 [h, w] in 0..255: the highest of the channels.

    A file of 16 bits may hold values of 8.
    """
    bits = FULL_DEPTH
    if array.dtype.kind != "f" and array.max() <= 255:
        bits = 8
    unit = _to_unit_range(array, path, bits)
    return _highest_channel(unit * np.float32(255))


def _fitted(mask: Tensor, path: str, size: tuple[int, int]) -> Tensor:
    """Brings a mask, bool [h, w], to the size of its image, if it has its proportions."""
    found = (mask.shape[0], mask.shape[1])
    if found == size:
        return mask
    if not same_proportions(found, size):
        check_same_size(path, found, size, "mask")
    batch = mask[None, None].to(torch.uint8)
    return F.interpolate(batch, size, mode="nearest-exact")[0, 0].bool()


def read_nonzero(path: str, size: tuple[int, int], kind: str) -> Tensor:
    """Reads where an image file is not black, bool [h, w].

    Raises:
        DataError: naming the `kind` of file and its path, if it cannot be read or its size is not
            `size` (h, w).
    """
    return torch.from_numpy(_mask_values(path, size, kind) > 0)


def read_value(path: str, size: tuple[int, int], value: int) -> Tensor:
    """Reads where a mask file, or any mask in a folder, has a value of 0..255, bool [h, w].

    Raises:
        DataError: as `read_mask`.
    """
    files = [path]
    if Path(path).is_dir():
        files = _masks_in(path)
    masks = []
    for file in files:
        found = torch.from_numpy(_equal(_mask_pixels(file).values, value))
        masks.append(_fitted(found, file, size))
    return torch.stack(masks).any(0)


def read_regions(
    path: str, saturations: Sequence[Saturation], ignore: int | None = None
) -> Regions | None:
    """Reads the regions in a folder of masks, one in each file, and the share of each to find.

    Pixels of the value `ignore` belong to no region; returns None if nothing else is left.

    Raises:
        DataError: naming the file, if it cannot be read, is 0 everywhere, or has a value without a
            saturation; or for a folder without masks.
    """
    by_value = {saturation.value: saturation for saturation in saturations}
    masks = []
    shares = []
    for file in _masks_in(path):
        array = _read_array(file, "mask")
        if ignore is not None:
            array = np.where(array == ignore, 0, array)
            if not array.any():
                continue
        value = int(array.max())
        if value not in by_value:
            raise DataError(
                f"the mask {file} has the value {value}, which defects_config.json does not name"
            )
        mask = torch.from_numpy(_highest_channel(array)) > 0
        masks.append(mask)
        shares.append(by_value[value].share(int(mask.sum())))
    if not masks:
        return None
    return Regions(torch.stack(masks), torch.tensor(shares))


def is_blank(path: str) -> bool | None:
    """Returns whether a mask file is 0 everywhere; None if it cannot be read.

    What is wrong with it is reported when its pixels are read.
    """
    try:
        return not _mask_pixels(path).brightness().any()
    except DataError:
        return None


def check_same_size(path: str, found: tuple[int, int], size: tuple[int, int], kind: str) -> None:
    """Raises DataError if a `kind` of file does not have the size (h, w) of its image."""
    if found != size:
        raise DataError(
            f"the {kind} {path} is {found[1]}x{found[0]} px, its image {size[1]}x{size[0]} px; "
            "they must be of one size, or a mask of the same proportions. Export the mask again at "
            "the size of the image"
        )


def image_size(path: str) -> tuple[int, int]:
    """Returns height and width of an image as it will be read, by its header.

    Raises:
        DataError: naming the file, if it is missing or no image.
    """
    with _opened(path, "image") as file:
        return _size_as_read(file)


def verify(path: str, kind: str = "image") -> tuple[int, int]:
    """Checks that a file is whole, and decodes it only if there is no other way.

    Compares checksums if the format has them, and looks for a JPEG's end.

    Returns:
        Height and width of the image as it will be read, by its header.

    Raises:
        DataError: naming the file, if it is missing, no image, or not whole.
    """
    with _opened(path, kind) as file:
        size = _size_as_read(file)
        format = file.format
        file.verify()
    if format == "JPEG" and not _ends_as_jpeg(path):
        # It is cut off, or much is written behind its end.
        with _opened(path, kind) as file:
            file.load()
    return size


def _ends_as_jpeg(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-min(TAIL, os.stat(path).st_size), os.SEEK_END)
        return JPEG_END in file.read()


def _size_as_read(file: Image.Image) -> tuple[int, int]:
    """Returns height and width after the EXIF rotation."""
    if _is_on_its_side(file):
        return file.width, file.height
    return file.height, file.width


def _is_on_its_side(file: Image.Image) -> bool:
    data = file.info.get("exif")
    if file.format == "TIFF" or not data:  # Pillow turns a TIFF as it opens it
        return False
    exif = Image.Exif()
    exif.load(data)
    return exif.get(ORIENTATION, 1) >= FIRST_ON_ITS_SIDE


def _masks_in(folder: str) -> list[str]:
    """Returns the masks in a folder; raises DataError if there is none."""
    files = images(Path(folder))
    if not files:
        raise DataError(f"there is no mask in {folder}")
    return [str(file) for file in files]


def _mask_values(path: str, size: tuple[int, int], kind: str = "mask") -> np.ndarray:
    """Reads a mask as float32 [h, w] in 0..255, the highest of the channels."""
    unit = _to_unit_range(_read_array(path, kind), path, FULL_DEPTH)
    values = _highest_channel(unit * np.float32(255))
    height, width = values.shape
    check_same_size(path, (height, width), size, kind)
    return values


def _highest_channel(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        return array
    return array.max(axis=2)


def _equal(values: np.ndarray, value: int) -> np.ndarray:
    return np.abs(values - value) < 0.5


def _read_array(path: str, kind: str, bits: Bits = FULL_DEPTH) -> np.ndarray:
    with _opened(path, kind) as file:
        if bits != LEGACY and is_deep_colour(file):
            return read_deep_colour(path, FORMATS).values
        return _pixels(file)


@contextmanager
def _opened(path: str, kind: str) -> Iterator[Image.Image]:
    """Opens an image file of one of the `FORMATS`, not yet decoded.

    Raises:
        DataError: naming the file, for whatever goes wrong with it here or within.
    """
    with _faults_named(path, kind), Image.open(path, formats=FORMATS) as file:
        _check_pixels(path, kind, file.width, file.height)
        yield file


def _pixels(image: Image.Image) -> np.ndarray:
    """Turns an image as its EXIF says, and returns its values: [h, w], or [h, w, 3] in RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode in GREY_OF_MANY_BITS:
        return np.asarray(image)
    if image.mode in GREY_MODES:
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB"))


def _image_tensor(array: np.ndarray, name: str, bits: Bits) -> Tensor:
    """Returns an array [h, w] or [h, w, 3] as float32 [3, h, w] in [0, 1]."""
    unit = torch.from_numpy(_to_unit_range(array, name, bits))
    if unit.ndim == 2:
        return unit.expand(3, -1, -1)
    return unit.permute(2, 0, 1).contiguous()


def _check_pixels(path: str, kind: str, width: int, height: int) -> None:
    if width * height > _most_pixels:
        raise DataError(
            f"the {kind} {path} has {width} x {height} px, {width * height / 1e6:.4g} megapixels; "
            f"more than {_most_pixels / 1e6:.4g} are refused. If this is no mistake, raise "
            "data.max_megapixels"
        )


@contextmanager
def _faults_named(path: str, kind: str) -> Iterator[None]:
    """Turns whatever goes wrong with a file into a DataError that names it."""
    try:
        _check_is_file(path, kind)
        yield
    except (DataError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"the {kind} {path} is not there") from error
    except PermissionError as error:
        raise DataError(
            f"no permission to read the {kind} {path}: let this user read it, or run as one who may"
        ) from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; expected the {kind}, a file") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"cannot read the {kind} {path}: it is no image in a known format (PNG, JPEG, JPEG "
            "2000, TIFF, BMP, WebP, PNM). Replace the file or take it out"
        ) from error
    except Exception as error:  # decoders raise anything at a broken file
        reason = str(error).replace(repr(str(path)), "it") or type(error).__name__
        raise DataError(
            f"cannot read the {kind} {path}: {reason}. Replace the file or take it out"
        ) from error


def _check_is_file(path: str, kind: str) -> None:
    """Raises DataError if a path is none of a file or a folder: to open it could take for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{path} is a pipe, a socket or a device; expected the {kind}, a file")


def _to_unit_range(array: np.ndarray, name: str, bits: Bits) -> np.ndarray:
    """Scales the range of an array, its integers of so many bits, to [0, 1], float32."""
    if array.dtype == np.uint8:
        return np.divide(array, np.float32(255), dtype=np.float32)
    lowest = array.min()
    highest = array.max()
    if array.dtype.kind == "f":
        is_unit = lowest >= 0 and highest <= 1  # false for NaN too
        if not is_unit:
            raise DataError(
                f"{name} holds floats from {lowest:g} to {highest:g}; expected values in [0, 1]"
            )
        return array.astype(np.float32)
    if lowest < 0 or highest > 65535:
        raise DataError(f"{name} holds integers from {lowest} to {highest}; expected 8 or 16 bits")
    largest = 2 ** (FULL_DEPTH if bits == LEGACY else bits) - 1
    if highest > largest:
        raise DataError(
            f"{name} has values up to {highest}, and those of {bits} bits, as the training images "
            f"have, go up to {largest}. Take it out, or set data.bits to the camera's bits and "
            "train anew"
        )
    return array.astype(np.float32) / np.float32(largest)
