"""Times the eight metrics of 600 maps against torchmetrics (AUROC, AP, F1) and anomalib (AUPRO).

    python benchmarks/metrics.py

Each runs in a process of its own on the same arrays, and prints seconds and the largest resident
size beside the arrays. Without anomalib 2.7.0 in the same environment, only ours are measured.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGES, SIDE = 600, 256


def arrays() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draws smooth maps, their maxima, masks and labels.

    Two of three images have a rectangle of 30 x 20 px as mask.
    """
    draw = torch.Generator().manual_seed(0)
    maps = F.interpolate(
        torch.randn(IMAGES, 1, 16, 16, generator=draw), size=(SIDE, SIDE), mode="bicubic"
    )[:, 0]
    maps += 0.1 * torch.randn(maps.shape, generator=draw)
    masks = torch.zeros(IMAGES, SIDE, SIDE, dtype=torch.bool)
    for i in range(0, IMAGES, 3):
        for mask in masks[i : i + 2]:
            top, left = torch.randint(0, SIDE - 40, (2,), generator=draw).tolist()
            mask[top : top + 30, left : left + 20] = True
    maps[masks] += 1.0
    return maps, maps.amax((1, 2)), masks, masks.any(2).any(1).long()


def ours(memory_gb: float) -> dict[str, float]:
    from lightning_ad.evaluation import AnomalyMetrics

    data = arrays()
    metrics = AnomalyMetrics(memory_gb=memory_gb)
    begin = start()
    for batch in zip(*(t.split(16) for t in data), strict=True):
        metrics.update(*batch)
    return done(begin, {name: float(v) for name, v in metrics.compute().items()})


def peers() -> dict[str, float]:
    from anomalib.metrics.aupro import _AUPRO
    from anomalib.metrics.f1_score import _F1Max
    from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

    maps, scores, masks, labels = arrays()
    begin = start()
    found = {}
    for level, (values, truth) in {"image": (scores, labels), "pixel": (maps, masks)}.items():
        for name, metric in {
            "AUROC": BinaryAUROC(),
            "AP": BinaryAveragePrecision(),
            "F1Max": _F1Max(),
        }.items():
            for part, true in zip(values.split(16), truth.split(16), strict=True):
                metric.update(part.flatten(), true.flatten().int())
            found[f"{level}_{name}"] = float(metric.compute())
    for limit in (0.3, 0.05):
        metric = _AUPRO(fpr_limit=limit)
        for part, true in zip(maps.split(16), masks.split(16), strict=True):
            metric.update(part, true.int())
        found[f"pixel_AUPRO_{limit:.2f}"] = float(metric.compute())
    return done(begin, found)


def start() -> tuple[float, float]:
    """Now, and the GiB that are held now; from here on the peak is counted anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return time.perf_counter(), status("VmRSS")


def status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20


def done(begin: tuple[float, float], metrics: dict[str, float]) -> dict[str, float]:
    seconds = time.perf_counter() - begin[0]
    return {**metrics, "seconds": seconds, "GiB over the arrays": status("VmHWM") - begin[1]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--one", choices=["exact", "binned", "peers"])
    wanted = parser.parse_args().one
    if wanted:
        print(
            json.dumps(peers() if wanted == "peers" else ours(1e-3 if wanted == "binned" else 64.0))
        )
        return
    seconds = {}
    for kind in ("exact", "binned", "peers"):
        ran = subprocess.run(
            [sys.executable, __file__, "--one", kind], capture_output=True, text=True
        )
        if ran.returncode:
            print(f"{kind}: {ran.stderr.strip().splitlines()[-1]}")
            continue
        found = json.loads(ran.stdout.splitlines()[-1])
        seconds[kind] = found["seconds"]
        print(kind, ", ".join(f"{name} {value:.6f}" for name, value in found.items()), flush=True)
    if "peers" in seconds:
        print(
            ", ".join(
                f"{k}: {seconds['peers'] / seconds[k]:.1f} times as fast"
                for k in ("exact", "binned")
            )
        )


if __name__ == "__main__":
    main()
