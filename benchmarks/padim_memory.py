"""Plots the peak memory of a PaDiM fit against the number of training images.

    python benchmarks/padim_memory.py docs/padim_memory.svg --root data/mtd \
        --weights mobilenet_v2.pth

Each fit is a process of its own (MobileNetV2, 224 px, MTD); what the process holds before the fit
is shown too.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

COUNTS = (50, 200, 762)
WIDTH, HEIGHT, LEFT, BOTTOM = 560, 300, 70, 50


def fit(count: int, root: str, weights: str) -> dict[str, float]:
    """Returns the peak memory of this process before a fit and after it, in GiB."""
    from lightning.pytorch import Trainer

    from lightning_ad.data.datamodule import AnomalyDataModule
    from lightning_ad.methods import PaDiM

    data = AnomalyDataModule(layout="mtd", root=root, image_size=224, num_workers=0)
    data.setup()
    data.samples["train"] = data.samples["train"][:count]
    model = PaDiM("mobilenet_v2", weights)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = peak()
    trainer.fit(model, datamodule=data)
    return {"before": before, "after": peak()}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def plot(found: dict[int, dict[str, float]]) -> str:
    """Draws the peaks as bars; returns the SVG."""
    top = max(f["after"] for f in found.values()) * 1.15
    scale, step = (HEIGHT - BOTTOM - 30) / top, (WIDTH - LEFT) / len(found)
    title = "Peak memory of a PaDiM fit, GiB (dark: before the first image)"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{title}</text>',
        centred(WIDTH / 2, HEIGHT - 8, "training images"),
    ]
    for k, (count, peaks) in enumerate(found.items()):
        x, width = LEFT + k * step + step * 0.25, step * 0.5
        for value, colour in ((peaks["after"], "#8fb8de"), (peaks["before"], "#2b5c8a")):
            height = value * scale
            place = f'x="{x:.0f}" y="{HEIGHT - BOTTOM - height:.0f}"'
            size = f'width="{width:.0f}" height="{height:.0f}"'
            parts.append(f'<rect {place} {size} fill="{colour}"/>')
        middle, head = x + width / 2, HEIGHT - BOTTOM - peaks["after"] * scale - 6
        parts.append(centred(middle, head, f"{peaks['after']:.2f}"))
        parts.append(centred(middle, HEIGHT - BOTTOM + 18, str(count)))
    return "\n".join([*parts, "</svg>"])


def centred(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="13" text-anchor="middle">{text}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plot", type=Path)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument(
        "--one", type=int, help="fit this many images in this process, and print its peaks"
    )
    args = parser.parse_args()
    if args.one:
        print(json.dumps(fit(args.one, args.root, args.weights)))
        return
    found = {}
    for count in COUNTS:
        ran = subprocess.run(
            [sys.executable, *sys.argv, "--one", str(count)], capture_output=True, text=True
        )
        ran.check_returncode()
        found[count] = json.loads(ran.stdout.splitlines()[-1])
        peaks = found[count]
        before = f"{peaks['before']:.2f} GiB before the fit"
        print(f"{count} images: {before}, {peaks['after']:.2f} at most")
    args.plot.write_text(plot(found) + "\n")


if __name__ == "__main__":
    main()
