"""ROOT/<category>/train/good/000.png
ROOT/<category>/test/good/000.png
ROOT/<category>/test/<defect>/000.png
ROOT/<category>/ground_truth/<defect>/000_mask.png   (0 and 255)
"""

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

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
from lightning_ad.errors import DataError

SOURCE = 'mvtec.com, "MVTec Anomaly Detection Dataset"'
LICENCE = "CC BY-NC-SA 4.0"


def categories(root: Path) -> list[str]:
    """Returns the categories in `root`."""
    return category_names(root, "train")


def find(root: Path, category: str | None) -> list[Sample]:
    """MVTec AD (Bergmann et al., CVPR 2019), and every data set converted to its layout.

    Masks are paired by stem, with or without `_mask`; without a folder `ground_truth` there are no
    masks, and no pixel metrics. A folder `validation/good`, as in MVTec LOCO,
    is the layout's own validation set.

    Raises:
        UsageError: for an unknown category.
        DataError: if a folder is missing.
    """
    base = category_folder(root, category, "train")
    samples = good_samples(base / "train" / GOOD, "train")
    if (base / "validation").is_dir():
        samples += good_samples(base / "validation" / GOOD, "validation")
    if not (base / "test").is_dir():
        raise DataError(
            f"there is no folder {base / 'test'}, where test/good and test/<defect> were expected"
        )
    truth = base / "ground_truth"
    if not truth.is_dir():
        rank_zero_warn(
            f"there is no folder {truth}: the anomalous images have no masks, and pixel metrics "
            "are n/a"
        )
    for folder in subfolders(base / "test"):
        found = images(folder)
        if folder.name == GOOD or not truth.is_dir():
            samples += [Sample(str(image), "test", folder.name) for image in found]
        else:
            masks = partners(found, truth / folder.name, ("_mask", ""))
            samples += anomalous_samples(found, masks, folder.name, mask_threshold=127)
    return samples
