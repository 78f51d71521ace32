"""How a run's numbers were measured, and by which code: what must agree for two runs to compare.

`protocol` is written to metrics.json; `differences` compares two of them.
"""

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
from lightning_ad.data.depth import EIGHT
from lightning_ad.data.reading import LEGACY
from lightning_ad.data.sample import Sample
from lightning_ad.methods.base import AnomalyModule

DIGITS = 16  # of a SHA-256 in hexadecimal that are kept
# Entries of a protocol; runs that differ in them still compare. What a crop takes follows from
# others.
MAY_DIFFER = ("weights", "seed", "cut_by_crop")
READ_ALIKE = (None, LEGACY, EIGHT)  # bits: without files of 16 bits, earlier versions read the same
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "kornia", "timm")


def protocol(
    model: AnomalyModule, data: AnomalyDataModule, test: Sequence[Sample]
) -> dict[str, Any]:
    """Returns the rules by which a tested model's metrics were measured, for metrics.json.

    Args:
        model: that was tested.
        data: that it was tested on.
        test: the test images that were tested, all of them or some.

    Returns:
        `weights`: `weights_hash` of all that was learned or loaded; the geometry, the bits of
        images, what the crop takes of the defects, and the rules of `docs/metrics.md`; hashes of
        the ignored regions and of the test set; `seed` of the data; `tested` if only some of the
        images were.
    """
    height, width = data.geometry.output
    tiles = None
    if data.tiles:
        tiles = [*data.tiles.shape, data.tiles.overlap]
    rules = {
        "weights": weights_hash(model.state_dict()),
        "resize": data.geometry.resize_to,
        "crop": data.geometry.crop_to,
        "tiles": tiles,
        "bits": data.bits,
        "cut_by_crop": data.mask_survey.protocol,
        "masks": f"nearest-neighbour resize; true above {_mask_thresholds(test)} of 255",
        "pixels": "all test images; anomalous ones without an outline are left out",
        "ignored": ignored_hash(test),
        "test_set": fingerprint(test),
        "aupro": (
            "8-connected regions of equal weight, false positives of all good pixels,"
            " linear at the limit"
        ),
        "resolution": f"{height} x {width} px, as the network sees the image",
        "pixel_metrics": "bins" if model.metrics.bounds else "exact",
        "seed": data.seed,
    }
    if data.geometry.interpolation is not None:
        rules["interpolation"] = data.geometry.interpolation
    count = len(data.samples["test"])
    if len(test) < count:
        rules["tested"] = f"{len(test)} of {count} test images"
    return rules


def _mask_thresholds(samples: Sequence[Sample]) -> str:
    thresholds = {s.mask_threshold for s in samples if s.mask_path is not None}
    if not thresholds:
        return "nothing"
    return " or ".join(map(str, sorted(thresholds)))


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Returns the first 16 digits of the SHA-256 of names, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGITS]


def fingerprint(samples: Sequence[Sample]) -> str:
    """Identifies a set of images: by names, kinds of defect, and bytes of images and masks.

    Names are relative to the folder that all images share, so that the set may move.

    Returns:
        The first 16 digits of a SHA-256.
    """
    top = _shared_folder(samples)
    entries = []
    for sample in samples:
        name = os.path.relpath(os.path.abspath(sample.path), top)
        size = _size_in_bytes(sample.path)
        mask_size = sample.mask_path and _size_in_bytes(sample.mask_path)
        entries.append((Path(name).as_posix(), sample.defect, size, mask_size))
    return _sha256(repr(sorted(entries)).encode())[:DIGITS]


def _shared_folder(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    paths = [os.path.abspath(sample.path) for sample in samples]
    return os.path.commonpath([os.path.dirname(path) for path in paths])


def _size_in_bytes(path: str) -> int:
    """Returns the size of a file, or of the files in a folder."""
    if Path(path).is_file():
        return os.path.getsize(path)
    return sum(file.stat().st_size for file in Path(path).iterdir())


def ignored_hash(samples: Sequence[Sample]) -> str | None:
    """Identifies ignored regions: by the content of their files, and the values in masks.

    Returns:
        The first 16 digits of a SHA-256; None if nothing is ignored.
    """
    if all(s.ignore_path is None and s.ignore_value is None for s in samples):
        return None
    contents: dict[str, str] = {}
    entries = []
    for sample in samples:
        path = sample.ignore_path
        if path is not None and path not in contents:
            contents[path] = _sha256(Path(path).read_bytes())
        entries.append((path and contents[path], sample.ignore_value))
    return _sha256(repr(entries).encode())[:DIGITS]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Lists what makes the metrics of two runs incomparable, a line for each entry that differs."""
    lines = []
    for name in {**first, **second}:
        if name not in MAY_DIFFER and _entry(first, name) != _entry(second, name):
            one = first.get(name, "not known")
            other = second.get(name, "not known")
            lines.append(f"{name}: {one} and {other}")
    return lines


def _entry(protocol: Mapping[str, Any], name: str) -> Any:
    """Returns an entry, the same one for rules that have the same effect."""
    value = protocol.get(name)
    if name == "bits" and value in READ_ALIKE:
        return EIGHT
    return value


def versions() -> dict[str, str]:
    """Returns the versions of this package, of Python, and of packages that can change a number."""
    found = {"lightning-ad": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        found[name] = version(name)
    return found


def revision(folder: Path = Path(__file__).parents[2]) -> str | None:
    """Returns the git commit of a checkout, with a `+` if files were changed; None without git."""
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    if changed:
        return f"{commit}+"
    return commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
