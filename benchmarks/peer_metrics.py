"""Compares PatchCore, PaDiM and CFA with anomalib's on magnetic tiles.

    python benchmarks/peer_metrics.py patchcore --root data/mtd --train-list list.txt \
        --weights mobilenet_v2.pth --images 200 --seeds 0 1 2

Both have the same images, network, layers, size and metrics: ours are trained by train.py's own
function; anomalib's model gets the batches of our data module, and its maps go to our metrics. The
network is MobileNetV2 or SqueezeNet 1.1 (`--backbone`), at 224 px (`--size`); anomalib's CFA knows
other networks only, and is given this one. `--images` takes the first of the sorted list for
training, so that anomalib's coreset selection ends. PaDiM's channels and CFA's first weights are
drawn once, for both. CFA learns for `--epochs`, in batches of 4, as released, of the same images in
the same order for both. Needs anomalib 2.7.0 in the same environment.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from lightning_ad.commands.train import train
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.evaluation import AnomalyMetrics
from lightning_ad.features.backbone import MEAN, STD
from lightning_ad.features.weights import build_network
from lightning_ad.methods import CFA, PaDiM

ROOT = Path(__file__).parents[1]
SHOWN = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO_0.30")
RATIO = 0.01
LEVELS = {"patchcore": 2, "padim": 3, "cfa": 3}  # of the last of these
LAYERS = {
    "mobilenet_v2": ["features.3", "features.6", "features.13"],
    "squeezenet1_1": ["features.4", "features.7", "features.12"],
}
CONFIGS = {"patchcore": ["patchcore-mean", "patchcore"], "padim": ["padim"], "cfa": ["cfa"]}
BATCH = {"patchcore": 16, "padim": 16, "cfa": 4}


def smaller(root: Path, listed: list[str], kept: list[str], folder: Path) -> tuple[Path, Path]:
    """Makes a tree of links to the images of MTD, without those that are listed and not kept.

    Returns:
        The tree, and a file that lists the kept ones.
    """
    out, chosen = set(listed) - set(kept), folder / "list.txt"
    tree = Path(
        shutil.copytree(
            root, folder / "mtd", copy_function=os.symlink, ignore=lambda _, names: out & {*names}
        )
    )
    chosen.write_text("\n".join(kept) + "\n")
    return tree, chosen


def batches(loader: torch.utils.data.DataLoader) -> Iterator:
    return (batch.without_padding() for batch in loader)


def normalised(image: Tensor) -> Tensor:
    return (image - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def peer(method: str, backbone: str, weights: str, seed: int, size: int) -> nn.Module:
    network, layers = build_network(backbone, weights), LAYERS[backbone][-LEVELS[method] :]
    if method == "padim":
        from anomalib.models.image.padim.torch_model import PadimModel

        model = PadimModel(network, layers, False, n_features=100)
        model.idx = PaDiM(backbone, weights, layers, dimension=100, seed=seed).channels
        return model
    if method == "patchcore":
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        return PatchcoreModel(layers, network, False)
    from anomalib.models.image.cfa import torch_model

    extractor = create_feature_extractor(network, layers).eval()
    width = sum(maps.shape[1] for maps in extractor(torch.zeros(1, 3, 64, 64)).values())
    with patch.multiple(
        torch_model, get_return_nodes=lambda _: layers, get_feature_extractor=lambda *_: extractor
    ):
        model = torch_model.CfaModel("resnet18", 1, 1, 3, 3, 1e-5)
    model.descriptor.layer = torch_model.CoordConv2d(width, width, kernel_size=1)
    first = CFA(backbone, weights, layers, "post_relu", seed=seed).descriptor.projection
    model.descriptor.layer.conv2d.weight.data = first.weight.detach()[:, :, None, None].clone()
    model.descriptor.layer.conv2d.bias.data = first.bias.detach().clone()
    with patch.object(torch_model, "get_return_nodes", lambda _: layers):
        scale = model.get_scale((size, size))
    model.get_scale = lambda _: scale
    return model


def fit_peer(method: str, model: nn.Module, data: AnomalyDataModule, epochs: int) -> None:
    loader = data.train_dataloader()
    if method != "cfa":
        model.feature_extractor.eval()
        with torch.inference_mode():
            for batch in batches(loader):
                model(normalised(batch.image))
            model.fit() if method == "padim" else model.subsample_embedding(RATIO)
        return
    from anomalib.models.image.cfa.loss import CfaLoss

    model.initialize_centroid(
        [SimpleNamespace(image=normalised(batch.image)) for batch in batches(loader)]
    )
    loss = CfaLoss(3, 3, 1e-5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=5e-4, amsgrad=True)
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in batches(loader):
            optimizer.zero_grad()
            loss(model(normalised(batch.image))).backward(
                retain_graph=True
            )  # as anomalib does: of the radius
            optimizer.step()


def score_peer(
    method: str, backbone: str, weights: str, data: AnomalyDataModule, seed: int, epochs: int
) -> dict[str, float]:
    """Fits anomalib's model and scores it on the batches of `data`; returns its metrics."""
    torch.manual_seed(seed)
    data.seed = seed
    model = peer(method, backbone, weights, seed, data.input_size[0]).train()
    fit_peer(method, model, data, epochs)
    model.eval()
    metrics = AnomalyMetrics()
    with torch.inference_mode():
        for batch in batches(data.test_dataloader()):
            found = model(normalised(batch.image))
            metrics.update(
                found.anomaly_map.squeeze(1), found.pred_score.flatten(), batch.mask, batch.label
            )
    return {name: float(value) for name, value in metrics.compute().items()}


def score_ours(
    config: str, flags: list[str], seed: int, epochs: int, output: Path
) -> dict[str, float]:
    own = ["--model.coreset_ratio", str(RATIO)] if config.startswith("patchcore") else []
    own += (
        ["--model.features", "post_relu", "--trainer.max_epochs", str(epochs)]
        if config == "cfa"
        else []
    )
    command = [
        "--config",
        f"{ROOT}/configs/{config}.yaml",
        "--config",
        f"{ROOT}/configs/data/mtd.yaml",
        *flags,
        *own,
    ]
    command += ["--seed_everything", str(seed)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        folder = train([*command, "--output", str(output), "--name", f"{config}-{seed}"]).path
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=LEVELS)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--train-list", type=Path, required=True)
    parser.add_argument("--backbone", choices=LAYERS, default="mobilenet_v2")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int)
    parser.add_argument("--epochs", type=int, default=2, help="of CFA")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    listed = sorted(args.train_list.read_text().split())
    with tempfile.TemporaryDirectory() as folder:
        tree, chosen = smaller(args.root.resolve(), listed, listed[: args.images], Path(folder))
        flags = ["--data.root", str(tree), "--data.layout_options.train_list", str(chosen)]
        flags += ["--data.image_size", str(args.size), "--data.center_crop", "null"]
        flags += ["--model.backbone", args.backbone, "--model.weights", args.weights]
        flags += ["--model.layers", f"[{','.join(LAYERS[args.backbone][-LEVELS[args.method] :])}]"]
        options = {
            "image_size": args.size,
            "batch_size": BATCH[args.method],
            "layout_options": {"train_list": chosen},
        }
        data = AnomalyDataModule("mtd", str(tree), **options)
        data.setup()
        sums: dict[str, list[dict[str, float]]] = {}
        for seed in args.seeds:
            found = {
                "anomalib": score_peer(
                    args.method, args.backbone, args.weights, data, seed, args.epochs
                )
            }
            for config in CONFIGS[args.method]:
                found[config] = score_ours(config, flags, seed, args.epochs, Path(folder))
            for name, metrics in found.items():
                sums.setdefault(name, []).append(metrics)
                print(
                    f"seed {seed}  {name:<16}",
                    *(f"{key} {metrics[key]:.4f}" for key in SHOWN),
                    flush=True,
                )
        for name, runs in sums.items():
            means = (f"{key} {sum(run[key] for run in runs) / len(runs):.4f}" for key in SHOWN)
            print(f"mean    {name:<16}", *means)


if __name__ == "__main__":
    main()
