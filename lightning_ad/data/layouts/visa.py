"""ROOT/split_csv/1cls.csv                              (columns object, split, label, image, mask)
ROOT/<category>/Data/Images/{Normal,Anomaly}/000.JPG
ROOT/<category>/Data/Masks/Anomaly/000.png          (small numbers of kinds of defect, not 255)
or as converted by the authors' script, with or without the folder 1cls:
ROOT/1cls/<category>/{train/good,test/good,test/bad,ground_truth/bad}
"""

import csv
from pathlib import Path

from lightning_ad.data.layouts._files import (
    category_folder,
    category_names,
    good_samples,
    images,
    partners,
)
from lightning_ad.data.sample import GOOD, Sample
from lightning_ad.errors import DataError, UsageError

BAD = "bad"
SOURCE = "github.com/amazon-science/spot-diff"
LICENCE = "CC BY 4.0"


def categories(root: Path, *, protocol: str = "1cls") -> list[str]:
    """The categories in `root`."""
    if (root / "split_csv").is_dir():
        return sorted({row["object"] for row in _rows(root, protocol)})
    return category_names(_level(root, protocol), "train")


def find(root: Path, category: str | None, *, protocol: str = "1cls") -> list[Sample]:
    """VisA (Zou et al., ECCV 2022): 12 categories, 9,621 normal and 1,200 anomalous images, raw or converted.

    `protocol` names the table of splits of the raw tree, `1cls`, `2cls_highshot` or `2cls_fewshot`; the anomalous
    training images of the latter are left out. A pixel is defective where its mask is not 0.

    Raises:
        UsageError: for an unknown category or table.
        DataError: for a missing folder or file, or a row without a mask.
    """
    if not (root / "split_csv").is_dir():
        return _converted(_level(root, protocol), category)
    there = categories(root, protocol=protocol)
    if category not in there:
        raise UsageError(
            f"{root} has no category {category!r}; set data.category to one of {', '.join(there)}"
        )
    rows = [row for row in _rows(root, protocol) if row["object"] == category]
    return [
        _sample(root, row) for row in rows if row["split"] != "train" or row["label"] == "normal"
    ]


def _rows(root: Path, protocol: str) -> list[dict[str, str]]:
    tables = {p.stem: p for p in sorted((root / "split_csv").glob("*.csv"))}
    if protocol not in tables:
        raise UsageError(
            f"there is no {root / 'split_csv' / protocol}.csv; there is {', '.join(tables)}"
        )
    with tables[protocol].open(newline="") as file:
        rows = list(csv.DictReader(file))
    if missing := {"object", "split", "label", "image", "mask"} - set(rows[0] if rows else {}):
        raise DataError(f"{tables[protocol]} has no column {', '.join(sorted(missing))}")
    return rows


def _level(root: Path, protocol: str) -> Path:
    """Where the categories of a converted tree lie."""
    return root / protocol if (root / protocol).is_dir() else root


def _sample(root: Path, row: dict[str, str]) -> Sample:
    split = "train" if row["split"] == "train" else "test"
    if row["label"] == "normal":
        return Sample(str(root / row["image"]), split)
    if not row["mask"]:
        raise DataError(
            f"the anomalous image {root / row['image']} has no mask in the table of splits"
        )
    return Sample(str(root / row["image"]), split, BAD, str(root / row["mask"]), 0)


def _converted(root: Path, category: str | None) -> list[Sample]:
    base = category_folder(root, category, "train")
    bad = images(base / "test" / BAD)
    pairs = zip(bad, partners(bad, base / "ground_truth" / BAD, ("", "_mask")), strict=True)
    samples = good_samples(base / "train" / GOOD, "train")
    samples += good_samples(base / "test" / GOOD, "test")
    return samples + [Sample(str(p), "test", BAD, str(m), 0) for p, m in pairs]
