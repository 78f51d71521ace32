"""Counts the defective training images that the list of suspects finds, on magnetic tiles.

    python benchmarks/contamination.py --root data/mtd --backbone mobilenet_v2 \
        --weights mobilenet_v2.pth

5 % of 400 training images are defective: the first four of each of the five kinds, by name. Prints
for each method how many of them are among the first 20, 40 and 60 of `suspects.csv`.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
METHODS = {
    "patchcore": ["--model.coreset_ratio", "0.01"],
    "padim": [],
    "spade": [],
    "mahalanobis": [],
}
KINDS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
COUNT, EACH = 400, 4


def write_table(root: Path, folder: Path) -> set[str]:
    """Writes samples.csv for the layout `table`; returns the paths of the defective images."""
    good = sorted((root / "MT_Free/Imgs").glob("*.jpg"))
    bad = [
        p for kind in KINDS for p in sorted((root / f"MT_{kind}/Imgs").glob("*.jpg"))[: EACH + 1]
    ]
    tested, planted = bad[:: EACH + 1], [p for n, p in enumerate(bad) if n % (EACH + 1)]
    train = [*good[: COUNT - len(planted)], *planted]
    rows = [(path, "train", "good") for path in train]
    rows += [(good[-1], "test", "good"), *((path, "test", "anomalous") for path in tested)]
    with (folder / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "split", "label"), *rows])
    return {str(path) for path in planted}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planted = write_table(args.root.resolve(), folder)
        for method in args.methods:
            command = [
                sys.executable,
                f"{ROOT}/train.py",
                "--config",
                f"{ROOT}/configs/{method}.yaml",
            ]
            command += [
                "--data.layout",
                "table",
                "--data.root",
                name,
                "--data.layout_options.outside",
                "true",
            ]
            command += [
                "--data.image_size",
                "224",
                "--data.center_crop",
                "null",
                "--suspects",
                "true",
            ]
            command += [
                "--model.backbone",
                args.backbone,
                "--model.weights",
                args.weights,
                *METHODS[method],
            ]
            subprocess.run(
                [*command, "--output", name, "--name", method], check=True, capture_output=True
            )
            with (folder / method / "version_0/suspects.csv").open(newline="") as file:
                order = [row["path"] in planted for row in csv.DictReader(file)]
            found = ", ".join(
                f"{sum(order[:first])} in the first {first}" for first in (20, 40, 60)
            )
            print(f"{method:<12} {found}, of {sum(order)} defective among {len(order)}", flush=True)


if __name__ == "__main__":
    main()
