"""suspects.csv: one row for each training image."""

import csv
from collections.abc import Sequence
from pathlib import Path

from lightning_ad.methods.base import Suspect
from lightning_ad.reporting.predictions import replacing


def write_suspects(path: Path, suspects: Sequence[Suspect]) -> None:
    """Writes the training images, the most suspicious first, and says where; and how many of them are left out."""
    with replacing(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Suspect._fields)
        rows.writerows((s.path, repr(s.score), str(s.trimmed).lower()) for s in suspects)
    trimmed = sum(suspect.trimmed for suspect in suspects)
    left_out = f" ({trimmed} of {len(suspects)} are left out)" if trimmed else ""
    print(f"Training images, the most suspicious first: {path}{left_out}")
