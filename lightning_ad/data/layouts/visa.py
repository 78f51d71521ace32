"""ROOT/split_csv/1cls.csv                              (columns object, split, label, image, mask)
ROOT/<category>/Data/Images/{Normal,Anomaly}/000.JPG
ROOT/<category>/Data/Masks/Anomaly/000.png          (small numbers of kinds of defect, not 255)
or as converted by the authors' script, with or without the folder 1cls:
ROOT/1cls/<category>/{train/good,test/good,test/bad,ground_truth/bad}
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
from lightning_ad.data.tables import Row, Table, name_below, read_table, row_numbers
from lightning_ad.errors import DataError, UsageError
from lightning_ad.system.names import same_letters
from lightning_ad.system.paths import existing

BAD = "bad"
COLUMNS = {"object", "split", "label", "image", "mask"}
SOURCE = "github.com/amazon-science/spot-diff"
LICENCE = "CC BY 4.0"


def categories(root: Path, *, protocol: str = "1cls") -> list[str]:
    """Returns the categories in `root`."""
    if (root / "split_csv").is_dir():
        return sorted(row_numbers(_table(root, protocol).path, "object"))
    return category_names(_converted_root(root, protocol), "train")


def find(root: Path, category: str | None, *, protocol: str = "1cls") -> list[Sample]:
    """VisA (Zou et al., ECCV 2022), raw or converted: 12 categories.

    9,621 normal and 1,200 anomalous images. `protocol` names the table of splits of the raw tree,
    `1cls`, `2cls_highshot` or `2cls_fewshot`; the anomalous training images of the latter two are
    left out. A pixel is defective if its mask is not 0.

    Raises:
        UsageError: for an unknown category or table.
        DataError: if a folder or file is missing, or an anomalous image has no mask in the table.
    """
    if not (root / "split_csv").is_dir():
        return _find_converted(_converted_root(root, protocol), category)
    table = _table(root, protocol)
    by_category = row_numbers(table.path, "object")
    wanted = same_letters(category or "")
    if wanted not in by_category:
        raise UsageError(
            f"{root} has no category {category!r}; set data.category to one of "
            f"{', '.join(sorted(by_category))}"
        )
    samples = []
    for number in by_category[wanted]:
        row = table.rows[number]
        if row["split"] != "train" or row["label"] == "normal":
            samples.append(_sample(root, row))
    return samples


def _table(root: Path, protocol: str) -> Table:
    """Reads the table of splits of a protocol."""
    files = sorted((root / "split_csv").glob("*.csv"))
    tables = {file.stem: file for file in files if file.is_file()}
    if protocol not in tables:
        raise UsageError(
            f"there is no {root / 'split_csv' / protocol}.csv; there is {', '.join(tables)}"
        )
    table = read_table(tables[protocol])
    missing = COLUMNS - set(table.columns)
    if missing:
        raise DataError(f"{table.path} has no column {', '.join(sorted(missing))}")
    return table


def _sample(root: Path, row: Row) -> Sample:
    split = "train" if row["split"] == "train" else "test"
    image = existing(root / name_below(root, row["image"]))
    if row["label"] == "normal":
        return Sample(str(image), split)
    if not row["mask"]:
        raise DataError(f"the anomalous image {image} has no mask in the table of splits")
    mask = existing(root / name_below(root, row["mask"]))
    return Sample(str(image), split, BAD, str(mask), 0)


def _converted_root(root: Path, protocol: str) -> Path:
    """Returns the folder that holds the categories of a converted tree."""
    if (root / protocol).is_dir():
        return root / protocol
    return root


def _find_converted(root: Path, category: str | None) -> list[Sample]:
    base = category_folder(root, category, "train")
    bad = images(base / "test" / BAD)
    masks = partners(bad, base / "ground_truth" / BAD, ("", "_mask"))
    samples = good_samples(base / "train" / GOOD, "train")
    samples += good_samples(base / "test" / GOOD, "test")
    return samples + anomalous_samples(bad, masks, BAD, mask_threshold=0)
