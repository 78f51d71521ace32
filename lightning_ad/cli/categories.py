"""One run for each of several categories or folds, one after the other, and the mean of their metrics."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

import yaml

from lightning_ad.cli.parser import split_flags
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.layouts import categories, layout_names, option_names
from lightning_ad.errors import UsageError
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.evaluation.catalogue import oracle
from lightning_ad.reporting.run_folder import RunFolder
from lightning_ad.survival import SIGNALS, Preempted

PACKAGE = Path(__file__).parents[2]


class Parts(NamedTuple):
    """What is run one after the other.

    Attributes:
        kind: category or fold: the setting of `data` in which the runs differ.
        names: its values.
    """

    kind: str
    names: list[str]


def several(args: Sequence[str]) -> Parts:
    """What the flags ask for: `--data.category all`, a list between commas, or `--data.fold all`; no names where it
    is one run.

    Raises:
        UsageError: where the data set has no categories, or not one that is listed; for folds that nobody holds out.
    """
    names = _categories(args)
    if _setting(args, "data.fold") != "all":
        return Parts("category", names)
    folds = str(_setting(args, "data.folds") or 5)
    if names or not folds.isdecimal() or _setting(args, "data.validation") != "fold":
        raise UsageError(
            "--data.fold all runs each of the data.folds of one category: add --data.validation fold, and name one "
            "category if there are several"
        )
    return Parts("fold", [str(fold) for fold in range(int(folds))])


def _categories(args: Sequence[str]) -> list[str]:
    wanted = _setting(args, "data.category")
    if not isinstance(wanted, str) or (wanted != "all" and "," not in wanted):
        return []
    layout, root = str(_setting(args, "data.layout") or ""), Path(str(_setting(args, "data.root") or "."))
    if not layout:
        raise UsageError(f"--data.category {wanted} of which data set? Add --config configs/data/mvtec.yaml, say")
    there = categories(layout, root, _options(args, layout)) if layout in layout_names() else []
    if not there:
        raise UsageError(f"--data.category {wanted}: the layout '{layout}' finds no categories in {root}")
    if wanted == "all":
        return there
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if unknown := [name for name in names if name not in there]:
        raise UsageError(f"there is no category '{unknown[0]}' in {root}; there is {', '.join(there)}")
    return names


def train_each(args: Sequence[str], parts: Parts) -> int:
    """Trains and tests each category or fold in a process of its own; a failed one does not stop the rest.

    With --resume, finished ones are taken as they are, unfinished ones go on, and missing ones begin.

    Returns:
        The exit code: 1 where one failed, 75 where one was told to stop.
    """
    kind, names = parts
    output = Path(str(_setting(args, "output") or "runs"))
    title = str(_setting(args, "name") or f"{_method(args)}-{_data_set(args, kind)}")
    folders = {}
    for number, name in enumerate(names, 1):
        label = name if kind == "category" else f"fold{name}of{len(names)}"
        run, flags = f"{title}-{label}", _without(args, f"--data.{kind}", "--name", "--resume")
        versions = RunFolder.versions(output / run)
        if "--resume" in args and any(v.finished for v in versions):
            print(f"[{number}/{len(names)}] {label}: finished before")
        else:
            print(f"[{number}/{len(names)}] {label}", flush=True)
            again = ["--resume"] if "--resume" in args and versions else []
            command = [sys.executable, "-m", "lightning_ad", "train", *flags, *again]
            paths = os.pathsep.join(filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH"))))
            command = [*command, f"--data.{kind}", name, "--name", run]
            code = run_part(command, {**os.environ, "PYTHONPATH": paths})
            if code == Preempted.exit_code:
                return code
            if code:
                print(f"[{number}/{len(names)}] {label} FAILED (exit code {code})", file=sys.stderr)
                continue
        folders[name] = RunFolder.find(output / run)
    if folders:
        _summarise(output / f"{title}.csv", folders, parts)
    if failed := [name for name in names if name not in folders]:
        plural = {"category": "categories", "fold": "folds"}[kind]
        print(f"error: {len(failed)} of {len(names)} {plural} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_part(command: Sequence[str], environment: dict[str, str]) -> int:
    """The exit code of a process, to which the signals that tell to stop are handed on."""
    child = subprocess.Popen(command, env=environment)
    before = {number: signal.signal(number, lambda number, _: child.send_signal(number)) for number in SIGNALS}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _summarise(path: Path, folders: dict[str, RunFolder], parts: Parts) -> None:
    """Prints a row of metrics for each category or fold and their mean, of folds its standard error too; and as CSV.

    The mean says of how many it is, where it is not of all that are wanted.
    """
    wanted = len(parts.names)
    found = {name: json.loads(folder.metrics.read_text())["metrics"] for name, folder in folders.items()}
    rows = {name: [metrics[m] for m in METRIC_NAMES] for name, metrics in found.items()}
    columns = [[v for v in column if v is not None] for column in zip(*rows.values(), strict=True)]
    counts = sorted({len(column) for column in columns})
    whole = counts == [wanted]
    mean = "mean" if whole else f"mean of {' or '.join(map(str, counts))} of {wanted}"
    rows[mean] = [sum(column) / len(column) if column else None for column in columns]
    if parts.kind == "fold":
        rows["standard error"] = [stdev(c) / len(c) ** 0.5 if len(c) > 1 else None for c in columns]
    width = max(map(len, rows))
    short = [name.replace("pixel_AUPRO", "AUPRO") for name in METRIC_NAMES]
    print(f"\n{'':<{width}}  {'  '.join(f'{name:>11}' for name in short)}")
    if any(marks := [oracle(name) for name in METRIC_NAMES]):
        print(f"{'':<{width}}  {'  '.join(f'{mark:>11}' for mark in marks)}".rstrip())
    for name, row in rows.items():
        print(f"{name:<{width}}  {'  '.join('        n/a' if v is None else f'{v:>11.6f}' for v in row)}")
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([parts.kind, *(f"{name} {oracle(name)}".rstrip() for name in METRIC_NAMES)])
        table.writerows([name, *("" if v is None else repr(v) for v in row)] for name, row in rows.items())
    print(f"\nTable: {path}")


def _options(args: Sequence[str], layout: str) -> dict[str, Any]:
    """What the flags say of the options of a layout."""
    names = option_names(layout)
    found = {name: _setting(args, f"data.layout_options.{name}") for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _setting(args: Sequence[str], key: str) -> Any:
    """The value of a key as the flags and the YAML files among them say, the last one first; None where none does."""
    found: Any = None
    for flag, value in pairwise(split_flags(args)):
        if flag in ("-c", "--config") and Path(value).is_file():
            content = yaml.safe_load(Path(value).read_text())
            for part in key.split("."):
                content = content.get(part) if isinstance(content, dict) else None
            found = found if content is None else content
        elif flag == f"--{key}":
            found = value
    return found


def _method(args: Sequence[str]) -> str:
    model = _setting(args, "model")
    named = model if isinstance(model, str) else _setting(args, "model.class_path")
    return str(named).rpartition(".")[2].lower()


def _data_set(args: Sequence[str], kind: str) -> str:
    """The name of the data set; with its category, unless it is that in which the runs differ."""
    category = None if kind == "category" else _setting(args, "data.category")
    return AnomalyDataModule(str(_setting(args, "data.layout")), str(_setting(args, "data.root")), category).title


def _without(args: Sequence[str], *flags: str) -> list[str]:
    """The flags but some, with their values; `--resume` has none."""
    kept, parts = [], iter(split_flags(args))
    for part in parts:
        if part == "--resume" and part in flags:
            continue
        if part in flags:
            next(parts, None)
        else:
            kept.append(part)
    return kept
