"""The demo data set: a small inspection task in the MVTec layout, drawn from a seed without a download."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from lightning_ad.data.demo.defects import DEFECTS
from lightning_ad.data.demo.parts import Conditions, build, expose, photograph

__all__ = ["DEFECTS", "defective_image", "draw_demo", "good_image"]

VISIBLE = 0.045  # a pixel whose brightness differs by this much is seen to be changed
LEAST_AREA = 0.003  # of the image; a smaller defect is drawn again


def draw_demo(
    root: Path,
    seed: int = 0,
    size: int = 256,
    train: int = 140,
    good: int = 20,
    per_defect: int = 8,
) -> None:
    """Write the data set under ``root``: train/good, test/good, test/<defect> and ground_truth/<defect>.

    Every image depends on the seed, the size, its folder and its number alone: a smaller set is a part of a
    larger one, and drawing it again writes the same bytes.
    """
    root = Path(root)
    for split, count in (("train", train), ("test", good)):
        for number in range(count):
            _save(
                good_image(seed, split, number, size), root / split / "good" / f"{number:03d}.png"
            )
    for defect in DEFECTS:
        for number in range(per_defect):
            image, mask = defective_image(seed, defect, number, size)
            _save(image, root / "test" / defect / f"{number:03d}.png")
            _save(mask, root / "ground_truth" / defect / f"{number:03d}_mask.png")


def good_image(seed: int, split: str, number: int, size: int = 256) -> Image.Image:
    """The RGB image ``number`` of the good parts of ``split``, 'train' or 'test'."""
    conditions = Conditions(_rng(seed, f"{split}/good", number))
    return expose(photograph(build(conditions, size), conditions, size), conditions)


def defective_image(
    seed: int, defect: str, number: int, size: int = 256
) -> tuple[Image.Image, Image.Image]:
    """The RGB image ``number`` of a defect, and its mask: 255 where the defect visibly changes the image."""
    rng = _rng(seed, f"test/{defect}", number)
    conditions = Conditions(rng)
    spoil, variants = DEFECTS[defect]
    good = photograph(build(conditions, size), conditions, size)
    while True:
        layers = build(conditions, size)
        spoil(layers, rng, size, variants[number % len(variants)])
        image = photograph(layers, conditions, size)
        mask = _changed(image, good)
        if mask.mean() >= LEAST_AREA:
            return expose(image, conditions), Image.fromarray(mask.astype(np.uint8) * 255)


def _rng(seed: int, group: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(group.encode()), number])


def _changed(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """(size, size) bool: where two images in 0..1 visibly differ, without specks and pinholes."""
    unit = image.shape[0] / 256
    reach = max(1, round(2 * unit))
    across = np.arange(-reach, reach + 1)
    disc = np.hypot(across, across[:, None]) < reach + 0.5
    differs = np.pad(np.abs(image - good).max(axis=2) > VISIBLE, reach)
    changed = _large(
        ndimage.binary_closing(differs, disc)[reach:-reach, reach:-reach], 12 * unit**2
    )
    gaps = ndimage.binary_fill_holes(changed) & ~changed
    return changed | (gaps & ~_large(gaps, 60 * unit**2))


def _large(regions: np.ndarray, area: float) -> np.ndarray:
    labels, _ = ndimage.label(regions)
    return regions & (np.bincount(labels.ravel()) >= area)[labels]


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=4)
