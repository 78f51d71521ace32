"""The files that a run reads, so that one that is resumed goes on with the same."""

import csv
import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.sample import Sample
from lightning_ad.data.textures import TextureFolder
from lightning_ad.system.files import replacing
from lightning_ad.system.spreadsheets import write_csv

END = 1 << 14  # bytes of each end of a file that are looked at
COLUMNS = ("use", "name", "digest")
TESTED = ("test images", "masks of the test")  # a fit does not read them
NAMED = 3  # names in a message

Digests = dict[str, dict[str, str]]  # of each file, by use and name


def training_files(data: AnomalyDataModule) -> Digests:
    """Returns a digest of each file of a data set, by its use and its name in the shared folder.

    A digest is of the size and both ends of a file: a whole read would take as long as a fit.

    Args:
        data: after its setup.
    """
    train = data.samples["train"]
    held_out = data.samples["validation"]
    test = data.labelled_test
    learned = [*train, *held_out]
    uses: dict[str, Iterable[str | None]] = {
        "training images": (sample.path for sample in train),
        "held-out images": (sample.path for sample in held_out),
        "masks": (sample.mask_path for sample in learned),
        "ignored regions": (sample.ignore_path for sample in learned),
        "textures": _textures(data),
        "test images": (sample.path for sample in test),
        "masks of the test": _masks(test),
    }
    digests: Digests = {}
    for use, paths in uses.items():
        digests[use] = _digests({path for path in paths if path is not None})
    return digests


def _masks(samples: Iterable[Sample]) -> Iterable[str | None]:
    for sample in samples:
        yield sample.mask_path
        yield sample.ignore_path


def _textures(data: AnomalyDataModule) -> list[str]:
    if data.textures is None:
        return []
    return [str(path) for path in TextureFolder(data.textures).paths]


def _digests(paths: set[str]) -> dict[str, str]:
    """Returns the digest of each file, by its name relative to the folder that all of them share.

    So the data may move.
    """
    if not paths:
        return {}
    full = {path: os.path.abspath(path) for path in paths}
    top = os.path.commonpath([os.path.dirname(path) for path in full.values()])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_digest, full))
    names = [os.path.relpath(path, top) for path in full.values()]
    return dict(zip(names, found, strict=True))


def _digest(path: str) -> str:
    """Returns the digest of a file, or of the files in a folder; empty if it is not there."""
    if os.path.isdir(path):
        return "".join(_digest(os.path.join(path, name)) for name in sorted(os.listdir(path)))
    if not os.path.isfile(path):
        return ""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        content = file.read(END)
        file.seek(max(END, size - END))
        content += file.read()
    return hashlib.blake2b(content + str(size).encode(), digest_size=8).hexdigest()


def write_digests(path: Path, digests: Digests) -> None:
    """Writes a table with a row for each file."""
    with replacing(path) as file:
        rows = [COLUMNS]
        for use, files in digests.items():
            rows += [(use, name, digest) for name, digest in sorted(files.items())]
        write_csv(file, rows)


def read_digests(path: Path) -> Digests:
    """Reads what `write_digests` was given; a use without files may be missing."""
    digests: Digests = {}
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for row in csv.DictReader(file):
            digests.setdefault(row["use"], {})[row["name"]] = row["digest"]
    return digests


def changes(before: Digests, now: Digests) -> dict[str, str]:
    """Says for each use of which files are gone, new or changed."""
    found = {}
    for use in before | now:
        what = _changes(before.get(use, {}), now.get(use, {}))
        if what:
            found[use] = what
    return found


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    changed = [name for name in before.keys() & now.keys() if before[name] != now[name]]
    parts = []
    for what, names in (
        ("gone", before.keys() - now.keys()),
        ("new", now.keys() - before.keys()),
        ("changed", changed),
    ):
        if names:
            more = ", ..." if len(names) > NAMED else ""
            parts.append(f"{len(names)} {what} ({', '.join(sorted(names)[:NAMED])}{more})")
    return ", ".join(parts)
