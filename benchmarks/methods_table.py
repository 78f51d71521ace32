"""Trains every method on one data set through train.py, and writes a table of the results.

    python benchmarks/methods_table.py docs/table.md --backbone mobilenet_v2 \
        --weights mobilenet_v2.pth --config configs/data/mtd.yaml --data.root data/mtd

Flags that this script does not know go to train.py. Runs that are already in --runs are not trained
again. Methods without such a backbone (DRAEM), or with two (PFM), are trained by a command of their
own and named with --also.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
METHODS = {
    "patchcore": ["--model.coreset_ratio", "0.01"],
    "padim": [],
    "spade": [],
    "mahalanobis": [],
    "cfa": ["--model.features", "post_relu", "--trainer.max_epochs", "2"],
}
SHOWN = {
    "image_AUROC": "image AUROC",
    "image_AP": "image AP",
    "image_F1Max": "image F1",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AP": "pixel AP",
    "pixel_F1Max": "pixel F1",
    "pixel_AUPRO_0.30": "AUPRO 0.30",
    "pixel_AUPRO_0.05": "AUPRO 0.05",
}


def run(method: str, args: argparse.Namespace, flags: list[str]) -> Path:
    """Returns the run folder of a method, which is trained if there is none."""
    name = f"{method}-{args.backbone}"
    folder = args.runs / name / "version_0"
    if not (folder / "metrics.json").is_file():
        own = ["--model.backbone", args.backbone, "--model.weights", args.weights, *METHODS[method]]
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            "--config",
            str(ROOT / f"configs/{method}.yaml"),
            *flags,
        ]
        subprocess.run([*command, *own, "--output", str(args.runs), "--name", name], check=True)
    return folder


def row(folder: Path) -> str:
    """Returns a line of the table.

    Its last cells: seconds of the fit, images a second of the test, peak memory in GiB, checkpoint
    size in MiB.
    """
    found = json.loads((folder / "metrics.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    method, data = config["model"]["class_path"].rpartition(".")[2], config["data"]
    size = (folder / "checkpoints/last.ckpt").stat().st_size / 2**20
    seconds, count = found["seconds"], found["counts"]["test"]
    cells = [method, str(data["center_crop"] or data["image_size"])]
    cells += [*(f"{found['metrics'][name]:.3f}" for name in SHOWN), f"{seconds['fit']:.0f}"]
    cells += [
        f"{count / seconds['test']:.1f}",
        f"{found['peak_memory_gib']['host']:.2f}",
        f"{size:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/table"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--also", nargs="+", type=Path, default=[], help="folders of further finished runs"
    )
    args, flags = parser.parse_known_args()
    head = [
        "method",
        "px",
        *SHOWN.values(),
        "fit, s",
        "test, images/s",
        "peak, GiB",
        "checkpoint, MiB",
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [
        row(folder)
        for folder in [*(run(method, args, flags) for method in args.methods), *args.also]
    ]
    args.table.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
