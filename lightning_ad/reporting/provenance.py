"""What a metric was measured by: two numbers mean the same only where this is the same."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_ad import __version__
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.sample import Sample
from lightning_ad.methods.base import AnomalyModule

OWN = ("weights", "seed")  # what two runs may differ in, and be compared


def protocol(model: AnomalyModule, data: AnomalyDataModule) -> dict[str, Any]:
    """Of a tested model, for metrics.json.

    Returns:
        `weights`: the first 16 digits of the SHA-256 of all that was learned or loaded; the geometry and the rules of
        `docs/metrics.md`; hashes of what is ignored and of the test set; `seed` of the data.
    """
    height, width = data.geometry.output
    limits = sorted({s.mask_threshold for s in data.samples["test"] if s.mask_path is not None})
    return {
        "weights": weights_hash(model.state_dict()),
        "resize": data.geometry.resize_to,
        "crop": data.geometry.crop_to,
        "tiles": data.tiles and [*data.tiles.shape, data.tiles.overlap],
        "masks": f"nearest-neighbour resize; true above {' or '.join(map(str, limits)) or 'nothing'} of 255",
        "pixels": "all test images; anomalous ones without an outline are left out",
        "ignored": ignored_hash(data.samples["test"]),
        "test_set": fingerprint(data.samples["test"]),
        "aupro": "8-connected regions of equal weight, false positives of all good pixels, linear at the limit",
        "resolution": f"{height} x {width} px, as the network sees the image",
        "pixel_metrics": "bins" if model.metrics.bounds else "exact",
        "seed": data.seed,
    }


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """The first 16 digits of the SHA-256 of names, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def fingerprint(samples: Sequence[Sample]) -> str:
    """Of a set of images: 16 digits of the SHA-256 of names, kinds of defect, and sizes of images and masks in bytes.

    Names are those within the folder that all images share: the set may have moved.
    """
    top = (
        os.path.commonpath([os.path.dirname(os.path.abspath(s.path)) for s in samples])
        if samples
        else ""
    )
    told = [
        (
            Path(os.path.relpath(os.path.abspath(s.path), top)).as_posix(),
            s.defect,
            _bytes(s.path),
            s.mask_path and _bytes(s.mask_path),
        )
        for s in samples
    ]
    return hashlib.sha256(repr(sorted(told)).encode()).hexdigest()[:16]


def _bytes(path: str) -> int:
    """Of a file, or of the files in a folder."""
    files = [Path(path)] if Path(path).is_file() else Path(path).iterdir()
    return sum(file.stat().st_size for file in files)


def ignored_hash(samples: Sequence[Sample]) -> str | None:
    """The first 16 digits of the SHA-256 of what tells ignored regions: files, and values in masks; None for none."""
    told = [(sample.ignore_path, sample.ignore_value) for sample in samples]
    if all(one == (None, None) for one in told):
        return None
    files = {
        path: hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for path, _ in told
        if path is not None
    }
    return hashlib.sha256(
        repr([(path and files[path], value) for path, value in told]).encode()
    ).hexdigest()[:16]


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What keeps the metrics of two runs from being compared, one line each."""
    names = [name for name in {**first, **second} if name not in OWN]
    return [
        f"{name}: {first.get(name, 'not known')} and {second.get(name, 'not known')}"
        for name in names
        if first.get(name) != second.get(name)
    ]


PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "kornia", "timm")


def versions() -> dict[str, str]:
    """Of ourselves, Python and the packages that decide about numbers."""
    own = {"lightning-ad": __version__, "python": platform.python_version()}
    return {**own, **{name: version(name) for name in PACKAGES}}


def revision(folder: Path = Path(__file__).parents[2]) -> str | None:
    """The git commit of a checkout, with `+` behind it where files were changed; None where there is none."""
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + (
            "+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()
