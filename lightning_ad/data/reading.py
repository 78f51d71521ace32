"""Reads an image or a mask from disk as a tensor."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lightning_ad.data.sample import Regions, Saturation
from lightning_ad.errors import DataError

ORIENTATION = 274  # the tag of EXIF
MEGAPIXELS = 200.0  # that an image may have, unless `limit_size` says otherwise
TAIL, JPEG_END = 1 << 16, b"\xff\xd9"  # programs write notes behind a JPEG's end


_limit = MEGAPIXELS * 1e6


def limit_size(megapixels: float) -> None:
    """Images of more pixels are refused from here on, in this process: a small file may hold a very large one."""
    global _limit
    _limit = megapixels * 1e6
    Image.MAX_IMAGE_PIXELS = max(
        Image.MAX_IMAGE_PIXELS or 0, int(_limit)
    )  # its own limit must not come first


def read_image(path: str) -> Tensor:
    """An image file as float32 [3, h, w] in [0, 1], RGB.

    EXIF rotation is applied, alpha dropped; 16-bit images are scaled by 65535, not clipped. The channels of a grey
    image are one and the same, in memory too.

    Raises:
        DataError: naming the file, where it is missing, truncated or no image.
    """
    array = _open(path, "image")
    if array.ndim == 2:
        return torch.from_numpy(_unit(array, path)).expand(3, -1, -1)
    return torch.from_numpy(_unit(array, path)).permute(2, 0, 1).contiguous()


def read_mask(
    path: str, size: tuple[int, int], threshold: int = 127, ignore: int | None = None
) -> Tensor:
    """A mask file as bool [h, w], true above `threshold` of 255 (nowhere, for 255); an RGB mask where any channel is.

    Of a folder, the union of the masks in it. Pixels of the value `ignore` are not true.

    Raises:
        DataError: naming the file, where it is unreadable, its size is not `size` (h, w) of its image, or it
            has values, but none above the threshold; or a folder without masks.
    """
    if Path(path).is_dir():
        return torch.stack([read_mask(part, size, threshold, ignore) for part in _parts(path)]).any(
            0
        )
    value = _mask_values(path, size)
    if ignore is not None:
        value[_of_value(value, ignore)] = 0
    mask = value > threshold
    if threshold < 255 and value.max() > 0 and not mask.any():
        raise DataError(
            f"the mask {path} has values up to {value.max():.0f}, none above {threshold}; "
            "expected 0 and 255 (in the layout 'folder', data.layout_options.mask_threshold 0 takes any value)"
        )
    return torch.from_numpy(mask)


def read_nonzero(path: str, size: tuple[int, int], kind: str) -> Tensor:
    """Where an image file is not black, bool [h, w].

    Raises:
        DataError: naming the `kind` of file and its path, where it is unreadable or its size is not `size` (h, w).
    """
    return torch.from_numpy(_mask_values(path, size, kind) > 0)


def read_value(path: str, size: tuple[int, int], value: int) -> Tensor:
    """Where a mask file has a value of 0..255, bool [h, w]; of a folder, where any mask in it has.

    Raises:
        DataError: as `read_mask`.
    """
    parts = _parts(path) if Path(path).is_dir() else [path]
    return torch.stack(
        [torch.from_numpy(_of_value(_mask_values(part, size), value)) for part in parts]
    ).any(0)


def read_regions(
    path: str, saturations: Sequence[Saturation], ignore: int | None = None
) -> Regions | None:
    """The regions in a folder of masks, one in each file, and the part of each that is enough.

    Pixels of the value `ignore` are of no region; None where nothing else is left.

    Raises:
        DataError: naming the file, where it is unreadable, is 0 everywhere, or has a value without a saturation; or a
            folder without masks.
    """
    by_value = {saturation.value: saturation for saturation in saturations}
    masks, shares = [], []
    for part in _parts(path):
        array = _open(part, "mask")
        if ignore is not None:
            array = np.where(array == ignore, 0, array)
            if not array.any():
                continue
        value = int(array.max())
        if value not in by_value:
            raise DataError(
                f"the mask {part} has the value {value}, which defects_config.json does not name"
            )
        masks.append(torch.from_numpy(array if array.ndim == 2 else array.max(axis=2)) > 0)
        shares.append(by_value[value].share(int(masks[-1].sum())))
    return Regions(torch.stack(masks), torch.tensor(shares)) if masks else None


def same_size(path: str, came: tuple[int, int], size: tuple[int, int], kind: str) -> None:
    """Raises DataError where a mask, or another `kind` of file, has not the size (h, w) of its image."""
    if came != size:
        raise DataError(
            f"the {kind} {path} is {came[1]}x{came[0]} px, its image {size[1]}x{size[0]} px; "
            "they must be of one size. Export the mask again at the size of the image"
        )


def verify(path: str, kind: str = "image") -> tuple[int, int]:
    """Compares checksums, where the format has them, and looks for a JPEG's end; decodes only what has none.

    Returns:
        Height and width of the image as it will be read, by its header.

    Raises:
        DataError: naming the file, where it is missing, no image, or not whole.
    """
    with _told(path, kind):
        with Image.open(path) as file:
            _check_size(path, kind, file.width, file.height)
            size, format = _size_as_read(file), file.format
            file.verify()
        if format == "JPEG":
            with open(path, "rb") as data:
                data.seek(-min(TAIL, os.stat(path).st_size), os.SEEK_END)
                whole = JPEG_END in data.read()
            if not whole:  # or there is much behind its end
                with Image.open(path) as file:
                    file.load()
        return size


def _size_as_read(file: Image.Image) -> tuple[int, int]:
    exif = Image.Exif()
    if file.format != "TIFF" and (
        told := file.info.get("exif")
    ):  # a TIFF is turned as it is opened
        exif.load(told)
    turned = exif.get(ORIENTATION, 1) >= 5
    return (file.width, file.height) if turned else (file.height, file.width)


def is_blank(path: str) -> bool | None:
    """Whether a mask file is 0 everywhere; None where it cannot be read (who reads its pixels will say why)."""
    try:
        return not _open(path, "mask").any()
    except DataError:
        return None


def _parts(folder: str) -> list[str]:
    """The masks in a folder; raises DataError where there is none."""
    if not (parts := sorted(Path(folder).glob("*.png"))):
        raise DataError(f"there is no mask (*.png) in {folder}")
    return [str(part) for part in parts]


def _mask_values(path: str, size: tuple[int, int], kind: str = "mask") -> np.ndarray:
    """float32 [h, w] in 0..255, the highest of the channels."""
    value = _unit(_open(path, kind), path) * np.float32(255)
    value = value if value.ndim == 2 else value.max(axis=2)
    same_size(path, (value.shape[0], value.shape[1]), size, kind)
    return value


def _of_value(values: np.ndarray, value: int) -> np.ndarray:
    return np.abs(values - value) < 0.5


def _open(path: str, kind: str) -> np.ndarray:
    with _told(path, kind), Image.open(path) as file:
        _check_size(path, kind, file.width, file.height)
        image = ImageOps.exif_transpose(file)
        if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
            return np.asarray(image)
        return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def _check_size(path: str, kind: str, width: int, height: int) -> None:
    if width * height > _limit:
        raise DataError(
            f"the {kind} {path} has {width} x {height} px, {width * height / 1e6:.4g} megapixels; more than "
            f"{_limit / 1e6:.4g} are refused. If it is no mistake, raise data.max_megapixels"
        )


@contextmanager
def _told(path: str, kind: str) -> Iterator[None]:
    """Whatever goes wrong with a file, as a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"the {kind} {path} is not there") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they like at a broken file
        reason = str(error).replace(repr(str(path)), "it") or type(error).__name__
        raise DataError(
            f"cannot read the {kind} {path}: {reason}. Replace the file or take it out"
        ) from error


def _unit(array: np.ndarray, path: str) -> np.ndarray:
    """Scales the file's own range to [0, 1]."""
    if array.dtype == np.uint8:
        return np.divide(array, np.float32(255), dtype=np.float32)
    if array.dtype.kind == "f" and not (array.min() >= 0 and array.max() <= 1):  # NaN neither
        raise DataError(
            f"{path} holds floats from {array.min():g} to {array.max():g}; expected values in [0, 1]"
        )
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.min() < 0 or array.max() > 65535:
        raise DataError(
            f"{path} holds integers from {array.min()} to {array.max()}; expected 8 or 16 bits"
        )
    return array.astype(np.float32) / np.float32(65535)
