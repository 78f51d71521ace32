"""predictions.csv: one row for each test image."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_ad.data.checking import Fault
from lightning_ad.errors import DataError
from lightning_ad.methods.base import Suspect
from lightning_ad.system.files import replacing

COLUMNS = ["path", "label", "defect", "score", "p_value", "anomalous"]
MORE = {  # columns that only some runs have: the field, and what its text is read by
    "area": ("area", float),
    "pixel_AUROC": ("pixel_auroc", float),
    "pixel_AP": ("pixel_ap", float),
    "map": ("map_path", str),
    "nearest": ("nearest", str),
}
VERDICTS = {
    (0, False): "passed",
    (0, True): "false alarm",
    (1, False): "missed",
    (1, True): "found",
}


@dataclass(frozen=True)
class ImageResult:
    """One row of predictions.csv.

    Attributes:
        path: the image file.
        label: 0 good, 1 anomalous.
        defect: the kind of defect, `good` for a good part.
        score: raw, higher is more anomalous.
        p_value: how often a good image would score as high, in [0, 1]; None where it is not known.
        anomalous: the verdict; None where there is no limit.
        area: the share of its pixels that is called anomalous; None where there is no threshold for pixels.
        pixel_auroc: of the image's own pixels, in [0, 1]; None where it has no outline.
        pixel_ap: likewise, the average precision.
        map_path: the anomaly map, relative to the run folder; None where none was written.
        nearest: the good patch nearest to the image's worst, `<training image>@<row>,<column>` of the grid of
            features; None for methods that keep no patches.
    """

    path: str
    label: int
    defect: str
    score: float
    p_value: float | None = None
    anomalous: bool | None = None
    area: float | None = None
    pixel_auroc: float | None = None
    pixel_ap: float | None = None
    map_path: str | None = None
    nearest: str | None = None

    @property
    def verdict(self) -> str:
        """passed, false alarm, missed, found; empty where there is none."""
        return "" if self.anomalous is None else VERDICTS[self.label, self.anomalous]


def write_predictions(path: str | Path, rows: Sequence[ImageResult]) -> None:
    """Writes predictions.csv; unknown values are empty, columns of `MORE` are there if any row has one."""
    more = [
        name
        for name, (field, _) in MORE.items()
        if any(getattr(r, field) is not None for r in rows)
    ]
    with replacing(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS + more)
        for r in rows:
            p_value = "" if r.p_value is None else repr(r.p_value)
            anomalous = "" if r.anomalous is None else str(r.anomalous).lower()
            where = [
                "" if (value := getattr(r, MORE[name][0])) is None else str(value) for name in more
            ]
            table.writerow([r.path, r.label, r.defect, repr(r.score), p_value, anomalous, *where])


def read_predictions(path: str | Path) -> list[ImageResult]:
    """The rows that `write_predictions` was given."""
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [
                ImageResult(
                    path=r["path"],
                    label=int(r["label"]),
                    defect=r["defect"],
                    score=float(r["score"]),
                    p_value=float(r["p_value"]) if r["p_value"] else None,
                    anomalous=r["anomalous"] == "true" if r["anomalous"] else None,
                    **{field: read(r[name]) for name, (field, read) in MORE.items() if r.get(name)},
                )
                for r in csv.DictReader(file)
            ]
    except OSError as error:
        raise DataError(f"cannot read the predictions {path}: {error}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} does not hold predictions (columns {', '.join(COLUMNS)}): {error}"
        ) from error


def write_suspects(path: Path, suspects: Sequence[Suspect]) -> None:
    """Writes the training images, the most suspicious first, and says where; and how many of them are left out."""
    with replacing(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Suspect._fields)
        rows.writerows((s.path, repr(s.score), str(s.trimmed).lower()) for s in suspects)
    trimmed = sum(suspect.trimmed for suspect in suspects)
    left_out = f" ({trimmed} of {len(suspects)} are left out)" if trimmed else ""
    print(f"Training images, the most suspicious first: {path}{left_out}")


def write_faults(path: Path, faults: Sequence[Fault]) -> None:
    """Writes a table of the faults: path, split, defect, reason."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("path", "split", "defect", "reason"))
        rows.writerows((f.sample.path, f.sample.split, f.sample.defect, f.reason) for f in faults)
