"""ROOT/<category>/train/good/000.png
ROOT/<category>/validation/good/000.png
ROOT/<category>/test/{good,logical_anomalies,structural_anomalies}/000.png
ROOT/<category>/ground_truth/{logical_anomalies,structural_anomalies}/000/000.png, 001.png, ...
ROOT/<category>/defects_config.json
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_ad.data.layouts._files import (
    category_folder,
    category_names,
    good_samples,
    images,
    subfolders,
)
from lightning_ad.data.sample import GOOD, Sample, Saturation
from lightning_ad.data.tables import read_text
from lightning_ad.errors import DataError
from lightning_ad.system.paths import existing

SOURCE = 'mvtec.com, "MVTec LOCO AD"'
LICENCE = "CC BY-NC-SA 4.0"


def categories(root: Path) -> list[str]:
    """Returns the categories in `root`."""
    return category_names(root, "train")


def find(root: Path, category: str | None, *, whole_pixels: bool = True) -> list[Sample]:
    """MVTec LOCO AD (Bergmann et al., IJCV 2022): 1,772 training, 304 validation, 1,568 test.

    An anomalous image has a folder of masks, one for each region; its mask is their union, whatever
    grey value names the kind of defect. The layout's own validation images are good. If there is a
    `defects_config.json`, it says by grey value how much of a region must be found, and
    localisation is reported as sPRO too.

    Args:
        root: the folder of the data set.
        category: its name.
        whole_pixels: a share of a region that must be found is rounded down to whole pixels, as by
            the data set's own code; false for runs that were made before this could be set.

    Raises:
        UsageError: for an unknown category.
        DataError: if a folder is missing, or `defects_config.json` is not what it should be.
    """
    base = category_folder(root, category, "train")
    saturations = read_saturations(base / "defects_config.json", whole_pixels)
    samples = good_samples(base / "train" / GOOD, "train")
    samples += good_samples(base / "validation" / GOOD, "validation")
    for sample in good_samples(base / "test" / GOOD, "test"):
        samples.append(replace(sample, saturations=saturations))
    for folder in subfolders(base / "test"):
        if folder.name == GOOD:
            continue
        for image in images(folder):
            masks = existing(base / "ground_truth" / folder.name / image.stem)
            samples.append(Sample(str(image), "test", folder.name, str(masks), 0, saturations))
    return samples


def read_saturations(path: Path, whole_pixels: bool = True) -> tuple[Saturation, ...]:
    """Reads the data set's own list of the kinds of defect; empty if there is no such file.

    Args:
        path: of the list.
        whole_pixels: as of `Saturation`.

    Raises:
        DataError: naming the file, if it is not such a list.
    """
    if not path.is_file():
        return ()
    try:
        kinds = json.loads(read_text(path))
        return tuple(_saturation(kind, whole_pixels) for kind in kinds)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{path} is not a list of kinds with pixel_value, saturation_threshold and "
            f"relative_saturation: {error!r}"
        ) from error


def _saturation(kind: dict[str, Any], whole_pixels: bool) -> Saturation:
    saturation = Saturation(
        value=int(kind["pixel_value"]),
        threshold=float(kind["saturation_threshold"]),
        relative=bool(kind["relative_saturation"]),
        whole_pixels=whole_pixels,
    )
    if not 0 < saturation.threshold < math.inf:
        raise ValueError(f"expected a saturation_threshold above 0, got {saturation.threshold:g}")
    if not 1 <= saturation.value <= 255:
        raise ValueError(f"expected a pixel_value of 1 to 255, got {saturation.value}")
    if kind["relative_saturation"] not in (True, False):
        raise ValueError(
            f"expected relative_saturation true or false, got {kind['relative_saturation']!r}"
        )
    return saturation
