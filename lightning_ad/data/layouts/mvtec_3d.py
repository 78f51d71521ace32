"""ROOT/<category>/{train,validation}/good/rgb/000.png
ROOT/<category>/test/<good or defect>/rgb/000.png
ROOT/<category>/test/<defect>/gt/000.png
"""

from pathlib import Path

from lightning_ad.data.layouts._files import (
    anomalous_samples,
    category_folder,
    category_names,
    good_samples,
    images,
    partners,
    subfolders,
)
from lightning_ad.data.sample import GOOD, Sample

SOURCE = 'mvtec.com, "MVTec 3D-AD"'
LICENCE = "CC BY-NC-SA 4.0"


def categories(root: Path) -> list[str]:
    """Returns the categories in `root`."""
    return category_names(root, "train")


def find(root: Path, category: str | None) -> list[Sample]:
    """The colour images of MVTec 3D-AD (Bergmann et al., VISAPP 2022).

    2,656 training, 294 validation and 1,197 test images. The point clouds (`xyz`) are not read, nor
    are the masks of good images, which are empty.

    Raises:
        UsageError: for an unknown category.
        DataError: if a folder is missing.
    """
    base = category_folder(root, category, "train")
    samples = good_samples(base / "train" / GOOD / "rgb", "train")
    samples += good_samples(base / "validation" / GOOD / "rgb", "validation")
    samples += good_samples(base / "test" / GOOD / "rgb", "test")
    for folder in subfolders(base / "test"):
        if folder.name != GOOD:
            bad = images(folder / "rgb")
            masks = partners(bad, folder / "gt")
            samples += anomalous_samples(bad, masks, folder.name, mask_threshold=0)
    return samples
