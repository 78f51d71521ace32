"""A series: a run of `lightning-ad train` for each of several categories or folds."""

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import NamedTuple

from lightning_ad.cli.settings import GivenSettings, as_one_run, without
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.layouts import categories, layout_names
from lightning_ad.errors import Preempted, UsageError
from lightning_ad.evaluation.catalogue import oracle
from lightning_ad.system.files import replacing
from lightning_ad.system.names import file_names, known_name, show
from lightning_ad.system.run_folder import RunFolder
from lightning_ad.system.signals import forward_signals
from lightning_ad.system.spreadsheets import spreadsheet_text, write_csv
from lightning_ad.system.subprocesses import start_training

PLURAL = {"category": "categories", "fold": "folds"}
Values = list[float | None]  # of all metrics, None for one that is not known


class Parts(NamedTuple):
    """What is run one after the other.

    Attributes:
        kind: category or fold: the setting of `data` in which the runs differ.
        names: its values; none for a single run.
    """

    kind: str
    names: list[str]


def parts_of(args: Sequence[str]) -> Parts:
    """Returns the runs that the flags ask for.

    Several runs are `--data.category all`, a list of categories between commas, or
    `--data.fold all`.

    Raises:
        UsageError: if the data set has no categories or not one that is listed, or for folds
            without `--data.validation fold`.
    """
    given = GivenSettings(args)
    names = _categories(given)
    if given.get("data.fold") != "all":
        return Parts("category", names)
    folds = str(given.get("data.folds") or 5)
    if names or not folds.isdecimal() or given.get("data.validation") != "fold":
        raise UsageError(
            "--data.fold all runs each of the data.folds of one category: add --data.validation "
            "fold, and name one category if there are several"
        )
    return Parts("fold", list(map(str, range(int(folds)))))


def _categories(given: GivenSettings) -> list[str]:
    wanted = given.get("data.category")
    if not isinstance(wanted, str) or (wanted != "all" and "," not in wanted):
        return []
    known = _known_categories(given, wanted)
    if wanted == "all":
        return known
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if known_name(name, known) is None:
            raise UsageError(
                f"there is no category '{name}' in {given.root}; there is {', '.join(known)}"
            )
    return names


def _known_categories(given: GivenSettings, wanted: str) -> list[str]:
    if not given.layout:
        raise UsageError(
            f"--data.category {wanted} of which data set? Add a data set, for example by "
            "--config configs/data/mvtec.yaml"
        )
    known: list[str] = []
    if given.layout in layout_names():
        known = categories(given.layout, given.root, given.layout_options())
    if not known:
        raise UsageError(
            f"--data.category {wanted}: the layout '{given.layout}' finds no categories in "
            f"{given.root}"
        )
    return known


def train_each(args: Sequence[str], parts: Parts) -> int:
    """Trains and tests each category or fold in a process of its own.

    A run that fails does not stop the others. With `--resume`, finished runs are kept as they are,
    unfinished ones continue, and missing ones begin.

    Returns:
        The exit code: 1 if a run failed, 75 if one was stopped.
    """
    given = GivenSettings(args)
    if given.is_trial:
        raise UsageError(
            f"trainer.fast_dev_run keeps nothing that a table could be made of: name one "
            f"{parts.kind} by --data.{parts.kind}"
        )
    output = Path(str(given.get("output") or "runs"))
    title = str(given.get("name") or f"{_method(given)}-{_data_set(given, parts.kind)}")
    finished: dict[str, RunFolder] = {}
    labels = [_label(name, parts) for name in parts.names]
    endings = file_names(labels)
    for number, name in enumerate(parts.names):
        label = f"[{number + 1}/{len(parts.names)}] {labels[number]}"
        run = f"{title}-{endings[number]}"
        folder = output / run
        kind = f"--data.{parts.kind}"
        flags = [*without(args, kind, "--name"), kind, name, "--name", run]
        code = _train_part(as_one_run(flags), folder, label)
        if code == Preempted.exit_code:
            show("stopped: the same command with --resume goes on", as_error=True)
            return code
        if code == 0:
            finished[name] = RunFolder.find(folder)
        else:
            show(f"{label} FAILED (exit code {code})", as_error=True)
    if finished:
        _summarise(output / f"{title}.csv", finished, parts)
    return _report_failures(finished, parts)


def _train_part(args: Sequence[str], folder: Path, label: str) -> int:
    """Trains one category or fold unless it is finished; returns the exit code."""
    resume = "--resume" in args
    versions = RunFolder.versions(folder)
    if resume and any(version.finished for version in versions):
        show(f"{label}: finished before")
        return 0
    show(label)
    flags = without(args, "--resume")
    if resume and versions:
        flags.append("--resume")
    return _wait(start_training(flags))


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Returns the exit code of a run; 75 if the series was stopped, whatever the run did."""
    signals: list[int] = []

    def hand_on(number: int) -> None:
        signals.append(number)
        child.send_signal(number)

    with forward_signals(hand_on):
        code = child.wait()
    if signals:
        return Preempted.exit_code
    return code


def _report_failures(finished: Mapping[str, RunFolder], parts: Parts) -> int:
    failed = [name for name in parts.names if name not in finished]
    if not failed:
        return 0
    show(
        f"error: {len(failed)} of {len(parts.names)} {PLURAL[parts.kind]} failed: "
        f"{', '.join(failed)}",
        as_error=True,
    )
    return 1


def _summarise(path: Path, folders: Mapping[str, RunFolder], parts: Parts) -> None:
    """Prints the metrics of each run and their mean as a table, and writes it as CSV."""
    recorded: dict[str, dict[str, float | None]] = {}
    for name, folder in folders.items():
        recorded[name] = json.loads(folder.metrics.read_text())["metrics"]
    metrics = _metric_names(recorded.values())
    rows: dict[str, Values] = {}
    for name, found in recorded.items():
        rows[name] = [found.get(metric) for metric in metrics]
    rows |= _statistics(rows, parts)
    show("\n" + "\n".join(_table(metrics, rows)))
    titles = [f"{metric} {oracle(metric)}".rstrip() for metric in metrics]
    lines = [[parts.kind, *titles]]
    for name, values in rows.items():
        lines.append([spreadsheet_text(name), *_cells(values, "{!r}", unknown="")])
    with replacing(path) as file:
        write_csv(file, lines)
    show(f"\nTable: {path}")


def _metric_names(recorded: Iterable[Mapping[str, float | None]]) -> list[str]:
    """Returns the metrics that any run has; an earlier run may lack one that was added since."""
    names: dict[str, None] = {}
    for metrics in recorded:
        names |= dict.fromkeys(metrics)
    return list(names)


def _statistics(rows: Mapping[str, Values], parts: Parts) -> dict[str, Values]:
    """Returns the mean over runs, and of folds its standard error too.

    The name of the mean says of how many runs it is, if it is not of all.
    """
    means: Values = []
    errors: Values = []
    counts: set[int] = set()
    for column in zip(*rows.values(), strict=True):
        known = [value for value in column if value is not None]
        counts.add(len(known))
        means.append(_mean(known))
        errors.append(_standard_error(known))
    title = "mean"
    if title in rows:
        title = "mean of all"
    if counts != {len(parts.names)}:
        title = f"mean of {' or '.join(map(str, sorted(counts)))} of {len(parts.names)}"
    statistics = {title: means}
    if parts.kind == "fold":
        statistics["standard error"] = errors
    return statistics


def _mean(values: Sequence[float]) -> float | None:
    if not values:
        return None
    return sum(values) / len(values)


def _standard_error(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    return stdev(values) / len(values) ** 0.5


def _table(metrics: Sequence[str], rows: Mapping[str, Values]) -> Iterator[str]:
    widths = [max(map(len, rows)), *(max(11, len(metric)) for metric in metrics)]
    yield _line("", metrics, widths)
    marks = [oracle(metric) for metric in metrics]
    if any(marks):
        yield _line("", marks, widths).rstrip()
    for name, values in rows.items():
        yield _line(name, _cells(values, "{:.6f}", unknown="n/a"), widths)


def _line(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    columns = [f"{name:<{widths[0]}}"]
    for cell, width in zip(cells, widths[1:], strict=True):
        columns.append(f"{cell:>{width}}")
    return "  ".join(columns)


def _cells(values: Values, form: str, unknown: str) -> list[str]:
    return [unknown if value is None else form.format(value) for value in values]


def _label(name: str, parts: Parts) -> str:
    if parts.kind == "fold":
        return f"fold{name}of{len(parts.names)}"
    return name


def _method(given: GivenSettings) -> str:
    model = given.get("model")
    if not isinstance(model, str):
        model = given.get("model.class_path")
    return str(model).rpartition(".")[2].lower()


def _data_set(given: GivenSettings, kind: str) -> str:
    """Returns the name of the data set; with its category, unless the runs differ in it."""
    category = None
    if kind == "fold":
        category = given.get("data.category")
    layout = str(given.get("data.layout"))
    return AnomalyDataModule(layout, str(given.get("data.root")), category).file_title
