"""The demo data set: a small inspection task in the MVTec layout, drawn without a download."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from lightning_ad.data.demo.defects import DEFECTS
from lightning_ad.data.demo.parts import Conditions, build, expose, photograph

__all__ = ["DEFECTS", "defective_image", "draw_demo", "good_image"]

VISIBLE = 0.045  # a difference in brightness from which a change can be seen
LEAST_AREA = 0.003  # share of the image; a smaller defect is drawn again
SPECK = 12.0  # area in units of a change that is too small to see
PINHOLE = 60.0  # area in units of a gap in a change that is filled


def draw_demo(
    root: Path,
    seed: int = 0,
    size: int = 256,
    train: int = 140,
    good: int = 20,
    per_defect: int = 8,
) -> None:
    """Writes the data set: train/good, test/good, test/<defect> and ground_truth/<defect>.

    Every image depends on the seed, the size, its folder and its number alone: a smaller set is a
    part of a larger one, and drawing it again writes the same bytes.
    """
    root = Path(root)
    _draw_good(root, "train", train, seed, size)
    _draw_good(root, "test", good, seed, size)
    for defect in DEFECTS:
        for number in range(per_defect):
            image, mask = defective_image(seed, defect, number, size)
            _save(image, root / "test" / defect / f"{number:03d}.png")
            _save(mask, root / "ground_truth" / defect / f"{number:03d}_mask.png")


def _draw_good(root: Path, split: str, count: int, seed: int, size: int) -> None:
    for number in range(count):
        image = good_image(seed, split, number, size)
        _save(image, root / split / "good" / f"{number:03d}.png")


def good_image(seed: int, split: str, number: int, size: int = 256) -> Image.Image:
    """Draws the RGB image `number` of the good parts of `split`, 'train' or 'test'."""
    conditions = Conditions(_rng(seed, f"{split}/good", number))
    layers = build(conditions, size)
    return expose(photograph(layers, conditions, size), conditions)


def defective_image(
    seed: int, defect: str, number: int, size: int = 256
) -> tuple[Image.Image, Image.Image]:
    """Draws the RGB image `number` of a defect, and its mask: 255 where it can be seen."""
    rng = _rng(seed, f"test/{defect}", number)
    conditions = Conditions(rng)
    draw_defect, variants = DEFECTS[defect]
    variant = variants[number % len(variants)]
    good = photograph(build(conditions, size), conditions, size)
    while True:
        layers = build(conditions, size)
        draw_defect(layers, rng, size, variant)
        image = photograph(layers, conditions, size)
        mask = _visible_change(image, good)
        if mask.mean() >= LEAST_AREA:
            return expose(image, conditions), Image.fromarray(mask.astype(np.uint8) * 255)


def _rng(seed: int, group: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(group.encode()), number])


def _visible_change(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Returns where two images in 0..1 visibly differ, bool (size, size), without specks."""
    unit = image.shape[0] / 256
    reach = max(1, round(2 * unit))
    across = np.arange(-reach, reach + 1)
    disc = np.hypot(across, across[:, None]) < reach + 0.5
    differs = np.abs(image - good).max(axis=2) > VISIBLE
    closed = ndimage.binary_closing(np.pad(differs, reach), disc)[reach:-reach, reach:-reach]
    changed = _large(closed, SPECK * unit**2)
    gaps = ndimage.binary_fill_holes(changed) & ~changed
    pinholes = gaps & ~_large(gaps, PINHOLE * unit**2)
    return changed | pinholes


def _large(regions: np.ndarray, area: float) -> np.ndarray:
    """Keeps the connected regions of at least this area in pixels."""
    labels, _ = ndimage.label(regions)
    is_large = np.bincount(labels.ravel()) >= area
    return regions & is_large[labels]


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=4)
