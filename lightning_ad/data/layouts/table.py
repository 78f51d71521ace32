"""ROOT/samples.csv  (or .parquet)                      columns path, split; label or defect; mask; ignore; category
split is train, validation or test; label good or anomalous (0 or 1); defect a kind of defect, or good
path,split,label,mask
images/0001.png,train,good,
images/0002.png,test,anomalous,masks/0002.png
"""

import csv
import os
from pathlib import Path
from typing import get_args

from lightning.pytorch.utilities import rank_zero_warn

from lightning_ad.data.sample import GOOD, Sample, Split
from lightning_ad.errors import DataError, UsageError, UserError

LABELS = {
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
    """What the column `category` has; none where there is no such column."""
    return sorted({row["category"] for row in _rows(root / file) if row.get("category")})


def find(
    root: Path,
    category: str | None,
    *,
    file: str = "samples.csv",
    mask_threshold: int = 127,
    outside: bool = False,
) -> list[Sample]:
    """Any data set that a table describes; one row is one image.

    Columns: `path`, `mask` and `ignore` (regions that are not to be looked at), relative to the root (or absolute);
    `split`: train, validation or test; `label`: good or 0, anomalous or 1; `defect`: its kind, `good` for a good part.
    One of `label` and `defect` must be there; an empty `mask` or `ignore` is none. With `data.category`, the rows whose
    column `category` has it. Anomalous validation images are for `--threshold f1` and `validation_AUROC`.

    Raises:
        UsageError: for an unknown category.
        UserError: where Parquet is asked for and pyarrow is not installed.
        DataError: for a missing file or column, a value that is none of these, a path that leaves the root (unless
            `outside` is true), or an anomalous training image.
    """
    rows, (word, first) = (
        _rows(root / file),
        ("row", 1) if file.endswith(".parquet") else ("line", 2),
    )
    kinds = sorted({row.get("category", "") for row in rows})
    if category is not None and category not in kinds:
        raise UsageError(
            f"{root / file} has no row of category '{category}'; its categories: {', '.join(kinds)}"
        )
    if category is None and len(kinds) > 1:
        rank_zero_warn(
            f"{root / file} has the categories {', '.join(kinds)}, and all of them are taken for one part; "
            "--data.category names one, and `all` trains each by itself"
        )
    return [
        _sample(root, row, f"{root / file}, {word} {number}", mask_threshold, outside)
        for number, row in enumerate(rows, first)
        if category is None or row["category"] == category
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataError(
            f"there is no table {path}; data.layout_options.file names it, relative to data.root"
        )
    if path.suffix == ".parquet":
        try:
            from pyarrow.parquet import read_table
        except ImportError as error:
            raise UserError(
                f"{path}: Parquet needs pyarrow (pip install pyarrow), or export it as CSV"
            ) from error
        found = [
            {k: "" if v is None else str(v) for k, v in row.items()}
            for row in read_table(path).to_pylist()
        ]
    else:
        with path.open(newline="", encoding="utf-8-sig") as file:
            found = [{k: v or "" for k, v in row.items() if k} for row in csv.DictReader(file)]
    columns = set(found[0]) if found else set()
    if not {"path", "split"} <= columns or not {"label", "defect"} & columns:
        raise DataError(
            f"{path} needs the columns path, split, and label or defect; it has {', '.join(columns)}"
        )
    return found


def _sample(root: Path, row: dict[str, str], where: str, threshold: int, outside: bool) -> Sample:
    if row["split"] not in get_args(Split):
        raise DataError(
            f"{where}: split is one of {', '.join(get_args(Split))}; '{row['split']}' came"
        )
    defect = row.get("defect", "").strip()
    defect = GOOD if LABELS.get(defect.lower()) is False else defect
    label = row.get("label", "").strip().lower() or (
        "0" if defect == GOOD else "1" if defect else ""
    )
    if label not in LABELS:
        raise DataError(
            f"{where}: label is good (0) or anomalous (1); '{row.get('label', '')}' came"
        )
    if LABELS[label] and row["split"] == "train":
        raise DataError(
            f"{where}: an anomalous image is for test or validation, its split is train"
        )
    if LABELS[label] == (defect == GOOD) and defect:
        raise DataError(f"{where}: label '{row.get('label')}' and defect '{defect}' do not agree")
    path, mask, ignore = (
        _inside(root, row.get(name, "").strip(), where, outside)
        for name in ("path", "mask", "ignore")
    )
    if path is None:
        raise DataError(f"{where}: no path")
    defect = (defect or "anomalous") if LABELS[label] else GOOD
    return Sample(
        path, row["split"], defect, mask if LABELS[label] else None, threshold, ignore_path=ignore
    )


def _inside(root: Path, name: str, where: str, outside: bool) -> str | None:
    """The path of a file that must lie in the root; a link in the root may lead elsewhere."""
    if not name:
        return None
    path = root / name
    if not outside and not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):
        raise DataError(
            f"{where}: {name} lies outside {root} (data.layout_options.outside true allows it)"
        )
    return str(path)
