"""Reads an image or a mask from disk as a tensor."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lightning_ad.data.listing import images
from lightning_ad.data.sample import Regions, Saturation
from lightning_ad.errors import DataError
from lightning_ad.system.paths import user_path

MEGAPIXELS = 200.0  # the most that an image may have, unless `limit_size` sets another limit
ORIENTATION = 274  # the EXIF tag
FIRST_ON_ITS_SIDE = 5  # orientations from here on swap height and width
JPEG_END = b"\xff\xd9"
TAIL = 1 << 16  # bytes in which a JPEG's end is looked for: programs write notes behind it
MODES_OF_MANY_BITS = ("I;16", "I;16B", "I;16L", "I", "F")
GREY_MODES = ("1", "L", "LA")

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor

_most_pixels = MEGAPIXELS * 1e6


def limit_size(megapixels: float) -> None:
    """Refuses larger images from here on, in this process: a small file may hold a huge one."""
    global _most_pixels
    _most_pixels = megapixels * 1e6
    # Pillow's own limit must not come first.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, int(_most_pixels))


def read_image(path: str) -> Tensor:
    """Reads an image file as float32 [3, h, w] in [0, 1], RGB.

    EXIF rotation is applied, alpha dropped; 16-bit images are scaled by 65535, not clipped. The
    channels of a grey image are one and the same, in memory too.

    Raises:
        DataError: naming the file, if it is missing, truncated or no image.
    """
    return _image_tensor(_read_array(path, "image"), path)


def as_image(image: ImageLike) -> Tensor:
    """Returns an image that is given in any usual form as float32 [3, h, w] in [0, 1], RGB.

    Args:
        image: a path; a PIL image; an array or tensor of uint8, uint16 or floats in [0, 1], grey
            [h, w], or RGB as [h, w, 3] for an array and as [3, h, w] for a tensor.

    Raises:
        DataError: if it is none of these, or a file cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(str(user_path(image)))
    if isinstance(image, Image.Image):
        return _image_tensor(_pixels(image), "the image")
    if not isinstance(image, np.ndarray | Tensor):
        raise DataError(
            "expected an image: a path, a PIL image, an array or a tensor; "
            f"got {type(image).__name__}"
        )
    return _image_tensor(_given_array(image), "the image")


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
    path: str, size: tuple[int, int], threshold: int = 127, ignore: int | None = None
) -> Tensor:
    """Reads a mask file as bool [h, w], true above `threshold` of 255 in any channel.

    For a folder, returns the union of its masks. Pixels of the value `ignore` are false.

    Raises:
        DataError: naming the file, if it cannot be read, its size is not `size` (h, w) of its
            image, or it has values, but none above the threshold; or for a folder without masks.
    """
    if Path(path).is_dir():
        masks = [read_mask(file, size, threshold, ignore) for file in _masks_in(path)]
        return torch.stack(masks).any(0)
    values = _mask_values(path, size)
    if ignore is not None:
        values[_equal(values, ignore)] = 0
    mask = values > threshold
    if threshold < 255 and values.max() > 0 and not mask.any():
        raise DataError(
            f"the mask {path} has values up to {values.max():.0f}, none above {threshold}; "
            "expected 0 and 255 (in the layout 'folder', data.layout_options.mask_threshold 0 "
            "takes any value)"
        )
    return torch.from_numpy(mask)


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
    masks = [torch.from_numpy(_equal(_mask_values(file, size), value)) for file in files]
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
        return not _read_array(path, "mask").any()
    except DataError:
        return None


def check_same_size(path: str, found: tuple[int, int], size: tuple[int, int], kind: str) -> None:
    """Raises DataError if a `kind` of file does not have the size (h, w) of its image."""
    if found != size:
        raise DataError(
            f"the {kind} {path} is {found[1]}x{found[0]} px, its image {size[1]}x{size[0]} px; "
            "they must be of one size. Export the mask again at the size of the image"
        )


def verify(path: str, kind: str = "image") -> tuple[int, int]:
    """Checks that a file is whole, and decodes it only if there is no other way.

    Compares checksums if the format has them, and looks for a JPEG's end.

    Returns:
        Height and width of the image as it will be read, by its header.

    Raises:
        DataError: naming the file, if it is missing, no image, or not whole.
    """
    with _faults_named(path, kind):
        with Image.open(path) as file:
            _check_pixels(path, kind, file.width, file.height)
            size = _size_as_read(file)
            format = file.format
            file.verify()
        if format == "JPEG" and not _ends_as_jpeg(path):
            # It is cut off, or much is written behind its end.
            with Image.open(path) as file:
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
    unit = _to_unit_range(_read_array(path, kind), path)
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


def _read_array(path: str, kind: str) -> np.ndarray:
    with _faults_named(path, kind), Image.open(path) as file:
        _check_pixels(path, kind, file.width, file.height)
        return _pixels(file)


def _pixels(image: Image.Image) -> np.ndarray:
    """Turns an image as its EXIF says, and returns its values: [h, w], or [h, w, 3] in RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode in MODES_OF_MANY_BITS:
        return np.asarray(image)
    if image.mode in GREY_MODES:
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB"))


def _image_tensor(array: np.ndarray, name: str) -> Tensor:
    """Returns an array [h, w] or [h, w, 3] as float32 [3, h, w] in [0, 1]."""
    unit = torch.from_numpy(_to_unit_range(array, name))
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
            f"cannot read the {kind} {path}: it is no image in a known format. Replace the file or "
            "take it out"
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


def _to_unit_range(array: np.ndarray, name: str) -> np.ndarray:
    """Scales an array's own range to [0, 1], float32."""
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
    return array.astype(np.float32) / np.float32(65535)
