"""What every method takes to score one image of 4,000 x 3,000 px by tiles, with its own backbone.

    python benchmarks/large_images.py [--methods patchcore padim] [--tile 512] [--images 1]

Draws two good images and a scratched one, trains each method on a small copy of one of them, and
evaluates the run on the others (or on the scratched one alone) in a process of its own. Prints the
largest resident size of that process, libraries included. Weights are random: they weigh the same.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
FEW = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
METHODS = {
    "patchcore": ["--model.weights", "null"],
    "padim": ["--model.weights", "null"],
    "spade": ["--model.weights", "null"],
    "mahalanobis": ["--model.weights", "null"],
    "cfa": ["--model.weights", "null", *FEW],
    "draem": FEW,
    "pfm": ["--model.source_weights", "null", "--model.target_weights", "null", *FEW],
}


def draw(root: Path, width: int, height: int) -> None:
    """Draws a tree for the layout `folder`: speckled grey sheets, one of them scratched."""
    rng = np.random.default_rng(0)
    for name in ("good/0", "good/1", "bad/scratch/0"):
        path = root / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(
            rng.integers(90, 160, (height // 4, width // 4, 3), np.uint8)
        ).resize((width, height))
        if name.startswith("bad"):
            ImageDraw.Draw(image).line(
                [width // 3, height // 3, width // 2, height // 2], "white", 20
            )
        image.save(path, quality=90)


def peak(command: list[str]) -> tuple[float, float]:
    """Returns the seconds and the largest resident size in GiB of a process.

    Exits with the process's output if it fails.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            output.seek(0)
            sys.exit(f"{' '.join(command)}\n{output.read().decode()[-2000:]}")
    return time.perf_counter() - begin, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--images", type=int, default=2, choices=(1, 2), help="that are evaluated")
    parser.add_argument(
        "--size", type=int, nargs=2, default=[4000, 3000], metavar=("WIDTH", "HEIGHT")
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "parts"), *args.size)
        for method in args.methods:
            width, height = args.size
            flags = [
                "--config",
                f"{ROOT}/configs/{method}.yaml",
                "--config",
                f"{ROOT}/configs/data/folder.yaml",
            ]
            flags += ["--data.root", f"{folder}/parts", "--data.layout_options.test_share", "0.5"]
            flags += ["--data.image_size", str(2 * args.tile), "--data.center_crop", "null"]
            flags += [
                "--data.tile",
                str(args.tile),
                "--data.batch_size",
                "1",
                "--data.num_workers",
                "0",
            ]
            flags += ["--output", folder, "--name", method, *METHODS[method]]
            peak([sys.executable, f"{ROOT}/train.py", *flags])
            again = [sys.executable, f"{ROOT}/evaluate.py", f"{folder}/{method}"]
            again += ["--trainer.limit_test_batches", str(args.images)]
            seconds, memory = peak([*again, "--data.image_size", f"[{height}, {width}]"])
            taken = f"{memory:5.2f} GiB  {seconds:6.1f} s with the start"
            print(f"{method:<12} {taken}, {args.images} images", flush=True)


if __name__ == "__main__":
    main()
