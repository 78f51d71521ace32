"""ROOT/<category>/train/good/000.png
ROOT/<category>/validation/good/000.png
ROOT/<category>/test/{good,logical_anomalies,structural_anomalies}/000.png
ROOT/<category>/ground_truth/{logical_anomalies,structural_anomalies}/000/000.png, 001.png, ...
ROOT/<category>/defects_config.json
"""

import json
from dataclasses import replace
from pathlib import Path

from lightning_ad.data.layouts._files import (
    category_folder,
    category_names,
    good_samples,
    images,
    subfolders,
)
from lightning_ad.data.sample import GOOD, Sample, Saturation
from lightning_ad.errors import DataError

SOURCE = 'mvtec.com, "MVTec LOCO AD"'
LICENCE = "CC BY-NC-SA 4.0"


def categories(root: Path) -> list[str]:
    """The categories in `root`."""
    return category_names(root, "train")


def find(root: Path, category: str | None) -> list[Sample]:
    """MVTec LOCO AD (Bergmann et al., IJCV 2022): 1,772 training, 304 validation and 1,568 test images.

    An anomalous image has a folder of masks, one for each region; its outline is their union, whatever grey value
    names the kind of defect. The layout's own validation images are good ones. Where `defects_config.json` is there, it
    says by grey value how much of a region is enough, and localisation is told as sPRO too.

    Raises:
        UsageError: for an unknown category.
        DataError: for a missing folder, or a `defects_config.json` that is none.
    """
    base = category_folder(root, category, "train")
    saturations = read_saturations(base / "defects_config.json")
    samples = good_samples(base / "train" / GOOD, "train")
    samples += good_samples(base / "validation" / GOOD, "validation")
    samples += [
        replace(s, saturations=saturations) for s in good_samples(base / "test" / GOOD, "test")
    ]
    for folder in subfolders(base / "test"):
        for image in [] if folder.name == GOOD else images(folder):
            masks = base / "ground_truth" / folder.name / image.stem
            samples.append(Sample(str(image), "test", folder.name, str(masks), 0, saturations))
    return samples


def read_saturations(path: Path) -> tuple[Saturation, ...]:
    """What the data set's own list says of each kind of defect; nothing where there is no such file.

    Raises:
        DataError: naming the file, where it is not such a list.
    """
    if not path.is_file():
        return ()
    try:
        found = tuple(
            Saturation(
                int(k["pixel_value"]),
                float(k["saturation_threshold"]),
                bool(k["relative_saturation"]),
            )
            for k in json.loads(path.read_text())
        )
        if bad := [s for s in found if s.threshold <= 0]:
            raise ValueError(f"a saturation_threshold is above 0, {bad[0].threshold:g} came")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a list of kinds with pixel_value, saturation_threshold and relative_saturation: {error!r}"
        ) from error
