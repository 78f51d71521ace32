"""ROOT/Class{1..10}/{Train,Test}/0001.PNG
ROOT/Class{1..10}/{Train,Test}/Label/0001_label.PNG  (for defective images alone)
"""

from pathlib import Path

from lightning_ad.data.layouts._files import category_folder, category_names, images
from lightning_ad.data.sample import Sample, Split
from lightning_ad.errors import DataError

SOURCE = "conferences.mpi-inf.mpg.de/dagm/2007"
LICENCE = "see there"


def categories(root: Path) -> list[str]:
    """The categories in `root`."""
    return category_names(root, "Train")


def find(root: Path, category: str | None) -> list[Sample]:
    """DAGM 2007 (Wieler & Hahn): ten textures; defective are the images that have a label.

    Trains on the good images of Train (its defective ones are left out), and tests on all of Test. The labels are
    coarse ellipses, so no method can reach high pixel scores. Labels.txt, where it is there, must agree.

    Raises:
        UsageError: for an unknown category.
        DataError: for a missing folder, or labels that do not agree with Labels.txt.
    """
    base = category_folder(root, category, "Train")
    samples: list[Sample] = []
    folders: dict[str, Split] = {"Train": "train", "Test": "test"}
    for name, split in folders.items():
        parts = images(base / name)
        labels = {p.stem.removesuffix("_label"): p for p in images(base / name / "Label")}
        _check(base / name / "Label" / "Labels.txt", {*labels})
        samples += [Sample(str(p), split) for p in parts if p.stem not in labels]
        if split == "test":
            bad = [p for p in parts if p.stem in labels]
            samples += [Sample(str(p), split, "defect", str(labels[p.stem]), 0) for p in bad]
    return samples


def _check(table: Path, labelled: set[str]) -> None:
    """Labels.txt: a line of header, then index, 0 or 1, image file, 0, label file or 0, between tabs."""
    if not table.is_file():
        return
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:] if line.strip()]
    listed = {Path(row[2]).stem for row in rows if len(row) > 2 and row[1].strip() == "1"}
    if differ := sorted(listed ^ labelled):
        raise DataError(
            f"{table} and the labels beside it do not agree on {differ[0]} and {len(differ) - 1} more: "
            "a defective image has a 1 in the table and a file <image>_label.PNG"
        )
