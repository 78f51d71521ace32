"""ROOT/{01,02,03}/train/ok/0000.bmp                   (ROOT: BTech_Dataset_transformed)
ROOT/{01,02,03}/test/{ok,ko}/0000.bmp
ROOT/{01,02,03}/ground_truth/ko/0000.png            (images and masks are .png or .bmp)
"""

from pathlib import Path

from lightning_ad.data.layouts._files import (
    anomalous_samples,
    category_folder,
    category_names,
    good_samples,
    images,
    partners,
)
from lightning_ad.data.sample import Sample

SOURCE = "avires.dimi.uniud.it/papers/btad"
LICENCE = "CC BY-NC-SA 4.0"


def categories(root: Path) -> list[str]:
    """Returns the categories in `root`."""
    return category_names(root, "train")


def find(root: Path, category: str | None) -> list[Sample]:
    """beanTech anomaly detection (Mishra et al., ISIE 2021): three products.

    1,799 training and 741 test images. Masks are paired by stem: those of product 03 are .bmp,
    those of 01 .png for .bmp images.

    Raises:
        UsageError: for an unknown category.
        DataError: if a folder is missing.
    """
    base = category_folder(root, category, "train")
    samples = good_samples(base / "train" / "ok", "train")
    samples += good_samples(base / "test" / "ok", "test")
    bad = images(base / "test" / "ko")
    masks = partners(bad, base / "ground_truth" / "ko")
    return samples + anomalous_samples(bad, masks, "ko", mask_threshold=0)
