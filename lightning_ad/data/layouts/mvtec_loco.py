"""ROOT/<category>/train/good/000.png
ROOT/<category>/validation/good/000.png
ROOT/<category>/test/{good,logical_anomalies,structural_anomalies}/000.png
ROOT/<category>/ground_truth/{logical_anomalies,structural_anomalies}/000/000.png, 001.png, ...
"""

from pathlib import Path

from lightning_ad.data.layouts._files import category_folder, category_names, good_samples, images, subfolders
from lightning_ad.data.sample import GOOD, Sample

SOURCE = 'mvtec.com, "MVTec LOCO AD"'
LICENCE = "CC BY-NC-SA 4.0"


def categories(root: Path) -> list[str]:
    """The categories in `root`."""
    return category_names(root, "train")


def find(root: Path, category: str | None) -> list[Sample]:
    """MVTec LOCO AD (Bergmann et al., IJCV 2022): 1,772 training, 304 validation and 1,568 test images.

    An anomalous image has a folder of masks, one for each region; its outline is their union, whatever grey value
    names the kind of defect. The layout's own validation images are good ones.

    Raises:
        UsageError: for an unknown category.
        DataError: for a missing folder.
    """
    base = category_folder(root, category, "train")
    samples = good_samples(base / "train" / GOOD, "train")
    samples += good_samples(base / "validation" / GOOD, "validation")
    samples += good_samples(base / "test" / GOOD, "test")
    for folder in subfolders(base / "test"):
        for image in [] if folder.name == GOOD else images(folder):
            masks = base / "ground_truth" / folder.name / image.stem
            samples.append(Sample(str(image), "test", folder.name, str(masks), 0))
    return samples
