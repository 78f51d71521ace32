"""Fits methods in a half and a quarter of the memory they would take, and compares their metrics.

    python benchmarks/budget.py --backbone mobilenet_v2 --weights mobilenet_v2.pth \
        --config configs/data/mtd.yaml --data.root data/mtd

The memory of a fit is the most that its process holds by the end of it, less what the process held
before. Flags that this script does not know go to train.py.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
METHODS = {"patchcore": ["--model.coreset_ratio", "0.01"], "spade": []}
SHOWN = ("image_AUROC", "image_AP", "pixel_AUROC", "pixel_AP", "pixel_AUPRO_0.30")


def fit(method: str, name: str, folder: Path, flags: list[str]) -> tuple[float, dict[str, float]]:
    """Returns the memory of a fit in GiB, and the metrics of its test."""
    command = [
        sys.executable,
        f"{ROOT}/train.py",
        "--config",
        f"{ROOT}/configs/{method}.yaml",
        *flags,
    ]
    subprocess.run(
        [*command, "--output", folder, "--name", name], check=True, stdout=subprocess.DEVNULL
    )
    found = json.loads((folder / name / "version_0/metrics.json").read_text())
    peaks = found["peak_memory_gib_by_stage"]
    return peaks["fit"] - peaks["start"], found["metrics"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    args, flags = parser.parse_known_args()
    flags += ["--model.backbone", args.backbone, "--model.weights", args.weights]
    print(
        "|".join(
            ["", " method ", " budget, GiB ", " held, GiB ", *(f" {name} " for name in SHOWN), ""]
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        for method in args.methods:
            own = [*flags, *METHODS[method]]
            full, metrics = fit(method, f"{method}-whole", Path(folder), own)
            rows = [("none", full, metrics)]
            for share in (2, 4):
                bound = [*own, "--model.memory_gb", f"{full / share:.3f}"]
                rows.append(
                    (f"{full / share:.2f}", *fit(method, f"{method}-{share}", Path(folder), bound))
                )
            for budget, held, metrics in rows:
                cells = [method, budget, f"{held:.2f}", *(f"{metrics[name]:.4f}" for name in SHOWN)]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
