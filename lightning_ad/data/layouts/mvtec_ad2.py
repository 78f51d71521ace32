"""ROOT/<category>/{train,validation}/good/000_regular.png
ROOT/<category>/test_public/{good,bad}/000_regular.png, 000_overexposed.png, 000_shift_1.png, ...
ROOT/<category>/test_public/ground_truth/bad/000_regular_mask.png, ...
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
from lightning_ad.data.sample import GOOD, Sample

SOURCE = 'mvtec.com, "MVTec AD 2"'
LICENCE = "CC BY-NC-SA 4.0"


def categories(root: Path) -> list[str]:
    """Returns the categories in `root`."""
    return category_names(root, "test_public")


def find(root: Path, category: str | None) -> list[Sample]:
    """MVTec AD 2 (Heckler-Kram et al. 2025), its public part: tests on `test_public`.

    The images of `test_private` and `test_private_mixed` have no labels and are left out.

    Raises:
        UsageError: for an unknown category.
        DataError: if a folder is missing.
    """
    base = category_folder(root, category, "test_public")
    samples = good_samples(base / "train" / GOOD, "train")
    samples += good_samples(base / "validation" / GOOD, "validation")
    public = base / "test_public"
    samples += good_samples(public / GOOD, "test")
    bad = images(public / "bad")
    masks = partners(bad, public / "ground_truth" / "bad", ("_mask", ""))
    return samples + anomalous_samples(bad, masks, "bad", mask_threshold=0)
