"""One run for each of several categories or folds, one after the other, and the mean of their metrics."""

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import NamedTuple

from lightning_ad.cli.settings import options, setting, without
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.layouts import categories, layout_names
from lightning_ad.errors import Preempted, UsageError
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.evaluation.catalogue import oracle
from lightning_ad.system.run_folder import RunFolder
from lightning_ad.system.signals import handing_on
from lightning_ad.system.subprocesses import start_training


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
    if setting(args, "data.fold") != "all":
        return Parts("category", names)
    folds = str(setting(args, "data.folds") or 5)
    if names or not folds.isdecimal() or setting(args, "data.validation") != "fold":
        raise UsageError(
            "--data.fold all runs each of the data.folds of one category: add --data.validation fold, and name one "
            "category if there are several"
        )
    return Parts("fold", [str(fold) for fold in range(int(folds))])


def _categories(args: Sequence[str]) -> list[str]:
    wanted = setting(args, "data.category")
    if not isinstance(wanted, str) or (wanted != "all" and "," not in wanted):
        return []
    layout, root = (
        str(setting(args, "data.layout") or ""),
        Path(str(setting(args, "data.root") or ".")),
    )
    if not layout:
        raise UsageError(
            f"--data.category {wanted} of which data set? Add --config configs/data/mvtec.yaml, say"
        )
    there = categories(layout, root, options(args, layout)) if layout in layout_names() else []
    if not there:
        raise UsageError(
            f"--data.category {wanted}: the layout '{layout}' finds no categories in {root}"
        )
    if wanted == "all":
        return there
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if unknown := [name for name in names if name not in there]:
        raise UsageError(
            f"there is no category '{unknown[0]}' in {root}; there is {', '.join(there)}"
        )
    return names


def train_each(args: Sequence[str], parts: Parts) -> int:
    """Trains and tests each category or fold in a process of its own; a failed one does not stop the rest.

    With --resume, finished ones are taken as they are, unfinished ones go on, and missing ones begin.

    Returns:
        The exit code: 1 where one failed, 75 where one was told to stop.
    """
    kind, names = parts
    output = Path(str(setting(args, "output") or "runs"))
    title = str(setting(args, "name") or f"{_method(args)}-{_data_set(args, kind)}")
    folders = {}
    for number, name in enumerate(names, 1):
        label = name if kind == "category" else f"fold{name}of{len(names)}"
        run, flags = f"{title}-{label}", without(args, f"--data.{kind}", "--name", "--resume")
        versions = RunFolder.versions(output / run)
        if "--resume" in args and any(v.finished for v in versions):
            print(f"[{number}/{len(names)}] {label}: finished before")
        else:
            print(f"[{number}/{len(names)}] {label}", flush=True)
            again = ["--resume"] if "--resume" in args and versions else []
            child = start_training([*flags, *again, f"--data.{kind}", name, "--name", run])
            code = _wait(child)
            if code == Preempted.exit_code:
                print("told to stop: the same command with --resume goes on", file=sys.stderr)
                return code
            if code:
                print(f"[{number}/{len(names)}] {label} FAILED (exit code {code})", file=sys.stderr)
                continue
        folders[name] = RunFolder.find(output / run)
    if folders:
        _summarise(output / f"{title}.csv", folders, parts)
    if failed := [name for name in names if name not in folders]:
        plural = {"category": "categories", "fold": "folds"}[kind]
        print(
            f"error: {len(failed)} of {len(names)} {plural} failed: {', '.join(failed)}",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _wait(child: subprocess.Popen[bytes]) -> int:
    """The exit code of a run; that of a pre-empted one where this series was told to stop, whatever the run did."""
    told = []

    def hand_on(number: int) -> None:
        told.append(number)
        child.send_signal(number)

    with handing_on(hand_on):
        code = child.wait()
    return Preempted.exit_code if told else code


def _summarise(path: Path, folders: dict[str, RunFolder], parts: Parts) -> None:
    """Prints a row of metrics for each category or fold and their mean, of folds its standard error too; and as CSV.

    The mean says of how many it is, where it is not of all that are wanted.
    """
    wanted = len(parts.names)
    found = {
        name: json.loads(folder.metrics.read_text())["metrics"] for name, folder in folders.items()
    }
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
        print(
            f"{name:<{width}}  {'  '.join('        n/a' if v is None else f'{v:>11.6f}' for v in row)}"
        )
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([parts.kind, *(f"{name} {oracle(name)}".rstrip() for name in METRIC_NAMES)])
        table.writerows(
            [name, *("" if v is None else repr(v) for v in row)] for name, row in rows.items()
        )
    print(f"\nTable: {path}")


def _method(args: Sequence[str]) -> str:
    model = setting(args, "model")
    named = model if isinstance(model, str) else setting(args, "model.class_path")
    return str(named).rpartition(".")[2].lower()


def _data_set(args: Sequence[str], kind: str) -> str:
    """The name of the data set; with its category, unless it is that in which the runs differ."""
    category = None if kind == "category" else setting(args, "data.category")
    return AnomalyDataModule(
        str(setting(args, "data.layout")), str(setting(args, "data.root")), category
    ).title
