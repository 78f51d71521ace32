"""ROOT/Class{1..10}/{Train,Test}/0001.PNG
ROOT/Class{1..10}/{Train,Test}/Label/0001_label.PNG  (only for defective images)
"""

from pathlib import Path

from lightning_ad.data.layouts._files import (
    anomalous_samples,
    category_folder,
    category_names,
    images,
)
from lightning_ad.data.sample import Sample, Split
from lightning_ad.data.tables import read_text
from lightning_ad.errors import DataError
from lightning_ad.system.names import same_letters

SOURCE = "conferences.mpi-inf.mpg.de/dagm/2007"
LICENCE = "see there"


def categories(root: Path) -> list[str]:
    """Returns the categories in `root`."""
    return category_names(root, "Train")


def find(root: Path, category: str | None) -> list[Sample]:
    """DAGM 2007 (Wieler & Hahn): ten textures; images that have a label are defective.

    Trains on the good images of Train (its defective ones are left out), and tests on all of Test.
    The labels are coarse ellipses, so no method can reach high pixel scores. If there is a
    Labels.txt, it must agree.

    Raises:
        UsageError: for an unknown category.
        DataError: if a folder is missing, or labels do not agree with Labels.txt.
    """
    base = category_folder(root, category, "Train")
    samples: list[Sample] = []
    folders: dict[str, Split] = {"Train": "train", "Test": "test"}
    for name, split in folders.items():
        parts = images(base / name)
        labels = _labels(base / name / "Label")
        for part in parts:
            if same_letters(part.stem) not in labels:
                samples.append(Sample(str(part), split))
        if split == "test":
            bad = [part for part in parts if same_letters(part.stem) in labels]
            masks = [labels[same_letters(part.stem)] for part in bad]
            samples += anomalous_samples(bad, masks, "defect", mask_threshold=0)
    return samples


def _labels(folder: Path) -> dict[str, Path]:
    """Returns the labels in a folder by the stem of their image."""
    labels = {same_letters(file.stem.removesuffix("_label")): file for file in images(folder)}
    _check_table(folder / "Labels.txt", set(labels))
    return labels


def _check_table(table: Path, labelled: set[str]) -> None:
    """Compares Labels.txt with the labels beside it.

    It has a line of header, then index, 0 or 1, image file, 0, label file or 0, between tabs.
    """
    if not table.is_file():
        return
    listed = set()
    for line in read_text(table).splitlines()[1:]:
        row = line.split("\t")
        if len(row) > 2 and row[1].strip() == "1":
            listed.add(same_letters(Path(row[2]).stem))
    different = sorted(listed ^ labelled)
    if different:
        raise DataError(
            f"{table} and the labels beside it do not agree on {different[0]} and "
            f"{len(different) - 1} more: a defective image has a 1 in the table and a file "
            "<image>_label.PNG"
        )
