"""Times one training step (forward, losses, backward, Adam) of the full DRAEM and of anomalib's.

    python benchmarks/draem_step.py --steps 5              # float32, on the GPU if there is one
    python benchmarks/draem_step.py --bf16 --compile       # ours as it is run on a GPU

The two take turns on the same images, whose anomalies are drawn beforehand. Needs anomalib 2.7.0 in
the same environment.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from lightning_ad.methods.draem.losses import focal_loss, ssim_loss
from lightning_ad.methods.draem.networks import (
    DiscriminativeNetwork,
    ReconstructiveNetwork,
    initialise,
)


def ours(images: tuple[torch.Tensor, ...], bf16: bool, compiled: bool) -> Callable[[], None]:
    reconstructive, discriminative = ReconstructiveNetwork(), DiscriminativeNetwork()
    both = nn.ModuleList((reconstructive, discriminative))
    initialise(both)
    both.to(images[0].device, memory_format=torch.channels_last)
    if compiled:
        reconstructive.compile(), discriminative.compile()
    optimizer = torch.optim.Adam(both.parameters(), lr=1e-4)
    target, image, mask = (
        x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in images
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
            reconstruction = reconstructive(image)
            logits = discriminative(torch.cat((reconstruction, image), 1))
        loss = nn.functional.mse_loss(reconstruction.float(), target) + ssim_loss(
            reconstruction, target
        )
        (loss + focal_loss(logits, mask)).backward()
        optimizer.step()

    return step


def anomalibs(images: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    from anomalib.models.image.draem.loss import DraemLoss
    from anomalib.models.image.draem.torch_model import DraemModel

    target, image, mask = images
    model, criterion = DraemModel().to(image.device).train(), DraemLoss().to(image.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    truth = mask[:, None].float()

    def step() -> None:
        optimizer.zero_grad()
        reconstruction, prediction = model(image)
        criterion(target, reconstruction, truth, prediction).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--bf16", action="store_true", help="ours under bf16 autocast")
    parser.add_argument("--compile", action="store_true", help="ours by torch.compile")
    wish = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    target = torch.rand(wish.batch, 3, wish.size, wish.size, device=device)
    mask = torch.rand(wish.batch, wish.size, wish.size, device=device) > 0.9
    image = torch.where(mask[:, None], 1 - target, target)
    mine, theirs = (
        ours((target, image, mask), wish.bf16, wish.compile),
        anomalibs((target, image, mask)),
    )
    if device == "cuda":  # on a CPU a step takes a minute, and there is nothing to warm up
        seconds(mine, device), seconds(theirs, device)
    turns = []
    for _ in range(wish.steps):
        turns.append((seconds(mine, device), seconds(theirs, device)))
        print("lightning_ad {:.3f} s   anomalib {:.3f} s".format(*turns[-1]), flush=True)
    a, b = (statistics.median(column) for column in zip(*turns, strict=True))
    ratios = sorted(second / first for first, second in turns)
    setting = f"{device}, batch {wish.batch} of {wish.size} px"
    print(f"{setting}, medians of {wish.steps} steps, taking turns")
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    print(f"lightning_ad {a:.3f} s   anomalib {b:.3f} s   {b / a:.2f} times as fast ({spread})")


if __name__ == "__main__":
    main()
