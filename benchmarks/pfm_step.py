"""Times the parts of a PFM epoch, and what the feature cache saves.

    python benchmarks/pfm_step.py --source squeezenet1_1 --target mobilenet_v2
    python benchmarks/pfm_step.py                                  # ResNet34 and ResNet50

Weights are random: they take the same time. Images are the demo's (PNG, 256 px), read again from
disk each time.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.demo import draw_demo
from lightning_ad.data.sample import collate
from lightning_ad.features.cache import FeatureCache
from lightning_ad.methods import PFM


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="resnet34")
    parser.add_argument("--target", default="resnet50")
    parser.add_argument("--latents", type=int, nargs=3, default=(200, 400, 900))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=6, help="of 8")
    wish = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = (
        PFM(wish.source, wish.target, None, None, latents=tuple(wish.latents)).to(device).train()
    )
    optimizer = module.default_optimizer(module.parameter_groups())
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, work: Callable[[], object]) -> object:
        start = time.perf_counter()
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        spent[name] += time.perf_counter() - start
        return result

    def train(features: list[Tensor]) -> None:
        pairs = [pair for ways in module.estimates(features).values() for pair in ways.values()]
        torch.stack([F.mse_loss(estimate, wanted) for estimate, wanted in pairs]).sum().backward()

    with tempfile.TemporaryDirectory() as root:
        draw_demo(Path(root), train=8 * wish.batches + 8, good=1, per_defect=1)
        data = AnomalyDataModule(root=root, image_size=wish.size)
        data.setup("fit")
        images = data.training_set()
        for number in range(wish.batches + 1):
            if number == 1:
                spent.clear()  # the first batch warms up
            batch = timed(
                "read and resize", lambda n=number: collate([images[8 * n + k] for k in range(8)])
            )
            pixels = batch.image.to(device)
            timed("source backbone", lambda x=pixels: module.source(x))
            timed("target backbone", lambda x=pixels: module.target(x))
            features = timed("(both, to unit length)", lambda x=pixels: module._features(x))
            cache = FeatureCache(8)
            cache.get(range(8), lambda places, f=features: [x[places] for x in f])
            kept = timed(
                "(from the cache)",
                lambda c=cache: [
                    f.to(device).contiguous(memory_format=module.memory_format)
                    for f in c.get(range(8), lambda p: [])
                ],
            )
            timed("mappings, forward and backward", lambda f=kept: train(f))
            timed("optimizer", optimizer.step)
            optimizer.zero_grad()
    cached, frozen = spent.pop("(from the cache)"), spent.pop("(both, to unit length)")
    total = sum(spent.values())
    print(
        f"{wish.source} to {wish.target}, latents {tuple(wish.latents)}, {wish.size} px, {device}"
    )
    for name, value in spent.items():
        print(
            f"{name:<32} {value / wish.batches / 8 * 1000:8.1f} ms an image  {value / total:6.1%}"
        )
    rest = total - spent["source backbone"] - spent["target backbone"]
    gain = (rest + frozen) / (rest + cached)
    print(f"an epoch with the cache (images are still read): {gain:.2f} times as fast")


if __name__ == "__main__":
    main()
