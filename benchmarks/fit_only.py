"""Times PatchCore and PaDiM and anomalib's on the same images, backbone and layers, in turns.

    python benchmarks/fit_only.py FOLDER --weights mobilenet_v2.pth --part selection padim scoring

FOLDER holds images (*.jpg), which are resized to 224 x 224 px. The backbone is MobileNetV2 or
SqueezeNet 1.1. Needs anomalib 2.7.0 in the same environment. The parts:

- `selection` selects a coreset from the embeddings of 200 images, the same for both, anomalib's own
  projection included, and prints the memory that ours takes beside the vectors
  (`--images 762 --ratio 0.1` for 10 % of all of MTD's training set).
- `padim` fits, also in half precision, times the network and the Gaussians alone, and scores.
- `scoring` scores with banks of 5,973 and 59,740 vectors, and times the backbone and the matrix
  product alone. Batches are of 32 images, as anomalib evaluates.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lightning_ad.data.geometry import resize
from lightning_ad.data.reading import read_image
from lightning_ad.features.backbone import MEAN, STD, Backbone
from lightning_ad.features.patches import patch_features
from lightning_ad.features.weights import build_network
from lightning_ad.methods import PaDiM, PatchCore
from lightning_ad.statistics.coreset import k_center_greedy
from lightning_ad.statistics.hierarchical_moments import HierarchicalMoments

LAYERS = {  # the finest is PaDiM's alone
    "mobilenet_v2": ["features.3", "features.6", "features.13"],
    "squeezenet1_1": ["features.4", "features.7", "features.12"],
}


def turns(repeats: int, **work: Callable[[], object]) -> dict[str, float]:
    """Returns the median seconds of each piece of work.

    All take turns in each round; a first round does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats + 1):
        for name, once in work.items():
            begin = time.perf_counter()
            once()
            seconds[name].append(time.perf_counter() - begin)
    return {name: sorted(values[1:])[(len(values) - 1) // 2] for name, values in seconds.items()}


def embeddings(images: Tensor, name: str, weights: str) -> Tensor:
    backbone = Backbone(name, weights, LAYERS[name][1:])
    return torch.cat(
        [patch_features(backbone(part), 3, None, None).flatten(0, 1) for part in images.split(32)]
    )


def selection(images: Tensor, name: str, weights: str, ratio: float) -> None:
    from anomalib.models.components.sampling import KCenterGreedy

    vectors = embeddings(images, name, weights)
    count = int(len(vectors) * ratio)
    begin = time.perf_counter(), restart_peak()
    k_center_greedy(vectors, count, torch.Generator().manual_seed(0))
    ours, held = time.perf_counter() - begin[0], memory("VmHWM") - begin[1]
    share = f"{held / vectors.nbytes:.2f} times the vectors' size"
    print(f"selection of {count} of {len(vectors)}: {ours:.0f} s, {share}")
    few = min(300, max(100, count // 20))  # each of anomalib's steps takes the same time
    begin = time.perf_counter()
    KCenterGreedy(vectors, few / len(vectors)).select_coreset_idxs()
    theirs = (time.perf_counter() - begin) / few * count
    print(f"  ours {ours / count * 1e3:.2f} ms a centre, ", end="")
    print(f"anomalib {theirs / count * 1e3:.1f} (from {few} centres): ", end="")
    print(f"{theirs / ours:.0f} times as fast")


def restart_peak() -> int:
    """Counts the peak anew (Linux); the bytes that are held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def scoring(images: Tensor, name: str, weights: str, size: int) -> None:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    tested, rest = images[:size], images[size:]
    batch = normalised(tested)
    layers, vectors = LAYERS[name][1:], embeddings(rest, name, weights)
    for rows in (5973, 59740):
        bank = vectors[
            torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:rows]
        ].clone()
        model = PatchCore(
            name, weights, layers, layer_dimension=None, dimension=None, distance="plain"
        )
        model.banks[0].bank, model.banks[0].origin = bank, torch.zeros(rows, 3, dtype=torch.int32)
        model.fitted.fill_(True)
        model.eval()
        peer = PatchcoreModel(layers, build_network(name, weights), False).eval()
        peer.memory_bank = bank
        queries = vectors[:784].clone()
        found = turns(
            5, ours=lambda m=model: m(tested), anomalib=lambda p=peer: p(batch),
            backbone=lambda m=model: m.backbones[0](tested),
            product=lambda q=queries, b=bank: [q @ b.T for _ in tested],
        )  # fmt: skip
        show(f"PatchCore, bank of {rows}", found, size)
        share = found["ours"] / (found["backbone"] + found["product"])
        print(f"  ours takes {share:.2f} of backbone and product")


def padim(images: Tensor, name: str, weights: str, size: int) -> None:
    from anomalib.models.image.padim.torch_model import PadimModel

    layers, tested = LAYERS[name], images[:size]
    batch = normalised(tested)
    model = PaDiM(name, weights, layers, dimension=100).eval()
    parts = images.split(32)

    def begin() -> None:
        grids = model._grids_of(*images.shape[2:])
        model.grids.copy_(torch.tensor(grids))
        model._moments = HierarchicalMoments(model._hierarchy(grids), torch.float64)

    def end() -> None:
        model.complete()
        model.fitted.fill_(True)
        model._gaussian().inverse_factors()

    def build() -> None:
        begin()
        for part in parts:
            model.observe(part, torch.empty(0))
        end()

    def gaussians(embedded: list[Tensor]) -> None:
        begin()
        for flat in embedded:
            model._moments.update(flat)
        end()

    def build_theirs() -> None:
        for part in parts:
            peer(normalised(part))
        peer.fit()

    def gaussians_theirs(embedded: list[Tensor]) -> None:
        peer.memory_bank = embedded
        peer.fit()

    for title, half in (("float32", False), ("bfloat16", True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            peer = PadimModel(build_network(name, weights), layers, False, n_features=100).train()
            both = timed(build), timed(build_theirs)
            networks = (
                timed(lambda: [model.backbone(part) for part in parts]),
                timed(lambda p=peer: [p.feature_extractor(normalised(part)) for part in parts]),
            )
            embedded = (
                [model._embed(part) for part in parts],
                [peer(normalised(part)) for part in parts],
            )
            rest = (
                timed(lambda e=embedded[0]: gaussians(e)),
                timed(lambda e=embedded[1]: gaussians_theirs(e)),
            )
        for part, (ours, theirs) in {
            "built": both,
            "network alone": networks,
            "Gaussians alone": rest,
        }.items():
            print(f"PaDiM, {len(images)} images, {title}, {part}: {ours:.2f} s, ", end="")
            print(f"anomalib {theirs:.2f} s: {theirs / ours:.1f} times")
    peer = PadimModel(build_network(name, weights), layers, False, n_features=100).train()
    build_theirs()
    peer.eval()
    show(
        "PaDiM",
        turns(
            5, ours=lambda: model(tested), anomalib=lambda: peer(batch),
            backbone=lambda: model.backbone(tested),
        ),
        size,
    )  # fmt: skip


def timed(once: Callable[[], object]) -> float:
    begin = time.perf_counter()
    once()
    return time.perf_counter() - begin


def normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def show(title: str, seconds: dict[str, float], images: int) -> None:
    rates = ", ".join(f"{name} {images / value:.1f}" for name, value in seconds.items())
    ratio = seconds["anomalib"] / seconds["ours"]
    print(f"{title}, images a second: {rates}; {ratio:.1f} times anomalib")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="mobilenet_v2", choices=LAYERS)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--part", nargs="+", default=["selection", "padim", "scoring"])
    args = parser.parse_args()
    files = sorted(args.folder.rglob("*.jpg"))[: args.images]
    images = torch.stack([resize(read_image(str(f)), 224, 224) for f in files])
    with torch.inference_mode():
        if "selection" in args.part:
            selection(images, args.backbone, args.weights, args.ratio)
        if "padim" in args.part:
            padim(images, args.backbone, args.weights, args.batch)
        if "scoring" in args.part:
            scoring(images, args.backbone, args.weights, args.batch)


if __name__ == "__main__":
    main()
