"""ROOT/samples.csv  (or .parquet)    columns path, split; label or defect; mask; ignore; category
split is train, validation or test; label good or anomalous (0, 1); defect its kind, or good
path,split,label,mask
images/0001.png,train,good,
images/0002.png,test,anomalous,masks/0002.png
"""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from lightning.pytorch.utilities import rank_zero_warn

from lightning_ad.data.sample import GOOD, Sample, Split
from lightning_ad.data.tables import Row, Table, name_below, read_table, row_numbers
from lightning_ad.errors import DataError, UsageError
from lightning_ad.system.names import same_letters
from lightning_ad.system.paths import existing, is_inside

IS_ANOMALOUS = {
    "good": False,
    "normal": False,
    "0": False,
    "anomalous": True,
    "anomaly": True,
    "bad": True,
    "1": True,
}
SOURCE = "your own images"
LICENCE = "yours"


def categories(root: Path, *, file: str = "samples.csv") -> list[str]:
    """Returns the values of the column `category`; none if there is no such column."""
    table = _table(root / file)
    return sorted(set(row_numbers(table.path, "category")) - {""})


def find(
    root: Path,
    category: str | None,
    *,
    file: str = "samples.csv",
    mask_threshold: int = 127,
    outside: bool = False,
) -> list[Sample]:
    """Any data set that a table describes; one row is one image.

    Columns: `path`, `mask` and `ignore` (ignored regions), relative to the root (or absolute);
    `split`: train, validation or test; `label`: good or 0, anomalous or 1; `defect`: its kind,
    `good` for a good part. One of `label` and `defect` must be there; an empty `mask` or `ignore`
    is none. With `data.category`, only the rows of that `category`. Anomalous validation images are
    for `--threshold f1` and `validation_AUROC`.

    Raises:
        UsageError: for an unknown category.
        UserError: for a Parquet table if pyarrow is not installed.
        DataError: if a file or column is missing, for an unknown value, a path that leaves the root
            (unless `outside` is true), or an anomalous training image.
    """
    table = _table(root / file)
    samples = []
    for number in _wanted(table, category):
        where = table.places[number]
        samples.append(_sample(root, table.rows[number], where, mask_threshold, outside))
    return samples


def _wanted(table: Table, category: str | None) -> Sequence[int]:
    """Returns the numbers of the rows of a category; of all rows for None."""
    by_category = row_numbers(table.path, "category")
    if category is None:
        if len(by_category) > 1:
            rank_zero_warn(
                f"{table.path} has the categories {', '.join(sorted(by_category))}, and all of "
                "them are taken for one part; --data.category names one, and `all` trains each by "
                "itself"
            )
        return range(len(table.rows))
    if same_letters(category) not in by_category:
        raise UsageError(
            f"{table.path} has no row of category '{category}'; its categories: "
            f"{', '.join(sorted(by_category))}"
        )
    return by_category[same_letters(category)]


def _table(path: Path) -> Table:
    if not path.is_file():
        raise DataError(
            f"there is no table {path}; data.layout_options.file names it, relative to data.root"
        )
    table = read_table(path)
    columns = table.columns
    has_label = "label" in columns or "defect" in columns
    if "path" not in columns or "split" not in columns or not has_label:
        raise DataError(
            f"{path} needs the columns path, split, and label or defect; it has "
            f"{', '.join(columns)[:200] or 'none'}"
        )
    return table


def _sample(root: Path, row: Row, where: str, mask_threshold: int, outside: bool) -> Sample:
    split = _split(row, where)
    defect = _defect(row, where)
    if defect != GOOD and split == "train":
        raise DataError(
            f"{where}: an anomalous image is for test or validation, its split is train"
        )
    path = _path(root, row, "path", where, outside)
    mask = _path(root, row, "mask", where, outside)
    ignore = _path(root, row, "ignore", where, outside)
    if path is None:
        raise DataError(f"{where}: no path")
    if defect == GOOD:
        mask = None
    return Sample(path, split, defect, mask, mask_threshold, ignore_path=ignore)


def _split(row: Row, where: str) -> Split:
    split = row["split"].strip().lower()
    if split not in get_args(Split):
        raise DataError(f"{where}: split: expected {', '.join(get_args(Split))}, got '{split}'")
    return split


def _defect(row: Row, where: str) -> str:
    """Returns the kind of defect by the columns defect and label; `good` for a good part."""
    defect = row.get("defect", "").strip()
    if IS_ANOMALOUS.get(defect.lower()) is False:
        defect = GOOD
    label = row.get("label", "").strip().lower()
    if not label and defect:
        return defect
    if label not in IS_ANOMALOUS:
        raise DataError(
            f"{where}: label: expected good (0) or anomalous (1), got '{row.get('label', '')}'"
        )
    if defect and IS_ANOMALOUS[label] == (defect == GOOD):
        raise DataError(f"{where}: label '{row.get('label')}' and defect '{defect}' do not agree")
    if not IS_ANOMALOUS[label]:
        return GOOD
    return defect or "anomalous"


def _path(root: Path, row: Row, column: str, where: str, outside: bool) -> str | None:
    """Returns the path of a file, which must lie in the root (a link may lead elsewhere)."""
    name = row.get(column, "").strip()
    if not name:
        return None
    name = name_below(root, name)
    path = existing(root / name)
    if not outside and not is_inside(path, root):
        raise DataError(
            f"{where}: {name} lies outside {root} (data.layout_options.outside true allows it)"
        )
    return str(path)
