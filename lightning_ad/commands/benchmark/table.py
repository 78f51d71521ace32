"""From finished runs to a table: means and intervals over seeds, costs, and published numbers."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import yaml
from scipy.special import stdtrit

from lightning_ad.commands.benchmark.cells import Cell
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.reporting.provenance import differences
from lightning_ad.system.run_folder import RunFolder

Key = TypeVar("Key")
MEAN = "mean"
COSTS = {
    "fit_seconds": "fit, s",
    "images_per_second": "test, images/s",
    "peak_memory_gib": "peak memory, GiB",
    "checkpoint_mib": "checkpoint, MiB",
}


class Estimate(NamedTuple):
    """A mean over seeds with its interval.

    Attributes:
        mean: over the seeds.
        half: half the width of the 95 % interval of Student's t; None for a single run.
    """

    mean: float
    half: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Returns the estimate from one value or more."""
        if len(values) < 2:
            return cls(values[0])
        quantile = float(stdtrit(len(values) - 1, 0.975))
        return cls(fmean(values), quantile * stdev(values) / math.sqrt(len(values)))


class CellResult(NamedTuple):
    """What a finished cell measured.

    Attributes:
        method: the class.
        layout: of the data set.
        metrics: by name, in [0, 1]; None for one that cannot be computed.
        costs: by the names of `COSTS`.
        protocol: how the metrics were measured.
        device: where.
    """

    method: str
    layout: str
    metrics: dict[str, float | None]
    costs: dict[str, float]
    protocol: dict[str, Any]
    device: str


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        data: the name of the data set.
        category: empty if it has none; `mean` for the mean over all that are there.
        method: the class, for a published number too.
        configuration: the name of the method's YAML file; empty for a published number.
        runs: how many seeds; 0 for a published number.
        metrics: by name, without those that are not known.
        costs: by the names of `COSTS`, means over seeds, of peak memory the largest; empty for a
            published number.
        note: the source of a published number; of how many categories a mean is, if some are
            missing.
        footnotes: by the names of metrics, how a published number was measured otherwise than ours.
    """

    data: str
    category: str
    method: str
    configuration: str
    runs: int
    metrics: Mapping[str, Estimate]
    costs: Mapping[str, float]
    note: str = ""
    footnotes: Mapping[str, str] = MappingProxyType({})


class Table(NamedTuple):
    """All that is written about a benchmark.

    Attributes:
        rows: the lines of the table.
        caveats: what a reader must know of the metrics.
        environment: what the costs depend on.
    """

    rows: list[Row]
    caveats: list[str]
    environment: list[str]


class PublishedValue(NamedTuple):
    """A line of published.csv: a metric in [0, 1] of a method on a category of a layout.

    Its footnote says how it was measured otherwise than ours; empty if it was not.
    """

    method: str
    data: str
    category: str
    metric: str
    value: float
    source: str
    footnote: str


def read_result(folder: RunFolder) -> CellResult:
    """Reads a finished run."""
    found = json.loads(folder.metrics.read_text())
    config = yaml.safe_load(folder.config.read_text())
    checkpoint_bytes = math.nan
    if folder.checkpoint.is_file():
        checkpoint_bytes = folder.checkpoint.stat().st_size
    seconds = found["seconds"]
    costs = {
        "fit_seconds": seconds["fit"],
        "images_per_second": found["counts"]["test"] / seconds["test"],
        "peak_memory_gib": max(found["peak_memory_gib"].values()),
        "checkpoint_mib": checkpoint_bytes / 2**20,
    }
    return CellResult(
        method=config["model"]["class_path"].rpartition(".")[2],
        layout=config["data"]["layout"],
        metrics=found["metrics"],
        costs=costs,
        protocol=found["protocol"],
        device=found["device"],
    )


def table_of(results: Mapping[Cell, CellResult]) -> Table:
    """Returns the table of the cells that are finished."""
    return Table(rows(results), caveats(results), environment(results))


def rows(results: Mapping[Cell, CellResult]) -> list[Row]:
    """Returns the rows by data set, category and method, and the mean over categories.

    Published numbers stand below measured ones.
    """
    made: list[Row] = []
    for data, own in _grouped(results, lambda cell: cell.data).items():
        by_category = _grouped(own, lambda cell: cell.category or "")
        for category, some in by_category.items():
            made += _category_rows(data, category, some)
        if len(by_category) > 1:
            made += _mean_rows(data, list(by_category), own)
    return made


def _grouped(
    results: Mapping[Cell, CellResult], key: Callable[[Cell], Key]
) -> dict[Key, dict[Cell, CellResult]]:
    groups: dict[Key, dict[Cell, CellResult]] = {}
    for cell, result in results.items():
        groups.setdefault(key(cell), {})[cell] = result
    return groups


def _category_rows(data: str, category: str, results: Mapping[Cell, CellResult]) -> Iterator[Row]:
    for name, own in _grouped(results, lambda cell: cell.method).items():
        runs = list(own.values())
        yield _measured_row(data, category, name, runs)
        yield from _published_rows(runs[0], data, category)


def _mean_rows(
    data: str, categories: Sequence[str], results: Mapping[Cell, CellResult]
) -> Iterator[Row]:
    """Yields each method's mean over the categories for which all of its seeds are finished."""
    for method, own in _grouped(results, lambda cell: cell.method).items():
        by_place = {(cell.category or "", cell.seed): result for cell, result in own.items()}
        seeds = sorted({cell.seed for cell in own})
        complete = [name for name in categories if _is_complete(name, seeds, by_place)]
        if not complete:
            continue
        means: list[CellResult] = []
        for seed in seeds:
            runs = [by_place[category, seed] for category in complete]
            means.append(_mean(runs))
        note = ""
        if len(complete) < len(categories):
            note = f"{len(complete)} of {len(categories)} categories"
        yield _measured_row(data, MEAN, method, means, note)
        yield from _published_mean_rows(means[0], data, complete)


def _is_complete(
    category: str, seeds: Sequence[int], by_place: Mapping[tuple[str, int], CellResult]
) -> bool:
    return all((category, seed) in by_place for seed in seeds)


def _measured_row(
    data: str, category: str, configuration: str, runs: Sequence[CellResult], note: str = ""
) -> Row:
    """Returns the row of one method on one category, from one run for each seed."""
    metrics: dict[str, Estimate] = {}
    for name in METRIC_NAMES:
        values = _values(runs, name)
        if len(values) == len(runs):
            metrics[name] = Estimate.of(values)
    costs = _mean(runs).costs
    return Row(data, category, runs[0].method, configuration, len(runs), metrics, costs, note)


def _mean(runs: Sequence[CellResult]) -> CellResult:
    """Returns the mean of results; a metric that one of them lacks is None."""
    metrics: dict[str, float | None] = {}
    for name in METRIC_NAMES:
        values = _values(runs, name)
        metrics[name] = fmean(values) if len(values) == len(runs) else None
    costs: dict[str, float] = {}
    for name in COSTS:
        combine = max if name == "peak_memory_gib" else fmean
        costs[name] = combine([run.costs[name] for run in runs])
    return runs[0]._replace(metrics=metrics, costs=costs)


def _values(runs: Sequence[CellResult], metric: str) -> list[float]:
    """Returns the values of a metric that are known."""
    values: list[float] = []
    for run in runs:
        value = run.metrics[metric]
        if value is not None:
            values.append(value)
    return values


def _published_rows(result: CellResult, data: str, category: str) -> Iterator[Row]:
    """Yields what was published about a method on a category, a row for each source."""
    by_source: dict[str, list[PublishedValue]] = {}
    for line in published():
        if (line.method, line.data, line.category) == (result.method, result.layout, category):
            by_source.setdefault(line.source, []).append(line)
    for source, lines in by_source.items():
        metrics = {line.metric: Estimate(line.value) for line in lines}
        footnotes = {line.metric: line.footnote for line in lines if line.footnote}
        yield Row(data, category, result.method, "", 0, metrics, {}, source, footnotes)


def _published_mean_rows(result: CellResult, data: str, categories: Sequence[str]) -> Iterator[Row]:
    """Yields the published mean if it is over these categories, else their own published mean."""
    every = {line.category for line in published() if line.data == result.layout} - {MEAN, ""}
    if every and every <= {*categories}:
        yield from _published_rows(result, data, MEAN)
        return
    by_source: dict[str, list[Row]] = {}
    for category in categories:
        for row in _published_rows(result, data, category):
            by_source.setdefault(row.note, []).append(row)
    for source, parts in by_source.items():
        metrics = _means_of_published(parts)
        if len(parts) == len(categories) and metrics:
            note = f"{source}, mean of these categories"
            footnotes = parts[0].footnotes
            yield Row(data, MEAN, result.method, "", 0, metrics, {}, note, footnotes)


def _means_of_published(parts: Sequence[Row]) -> dict[str, Estimate]:
    """Returns the means of the metrics that all rows have."""
    means: dict[str, Estimate] = {}
    for name in METRIC_NAMES:
        values = [row.metrics[name].mean for row in parts if name in row.metrics]
        if len(values) == len(parts):
            means[name] = Estimate(fmean(values))
    return means


@cache
def published() -> list[PublishedValue]:
    """Reads published.csv."""
    lines: list[PublishedValue] = []
    with Path(__file__).with_name("published.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            value = float(line.pop("value"))
            lines.append(PublishedValue(**line, value=value))
    return lines


def caveats(results: Mapping[Cell, CellResult]) -> list[str]:
    """Returns what to know of the metrics: overridden settings, other preprocessing of images."""
    lines = [*_override_lines(results), *_protocol_lines(results)]
    return list(dict.fromkeys(lines))


def _protocol_lines(results: Mapping[Cell, CellResult]) -> Iterator[str]:
    """Yields how a cell was measured otherwise than the first one of its category."""
    for cells in _grouped(results, lambda cell: (cell.data, cell.category)).values():
        (first, reference), *others = cells.items()
        for cell, result in others:
            for line in differences(reference.protocol, result.protocol):
                name = line.partition(":")[0]
                if name == "resolution":  # follows from the resize
                    continue
                usual = f"{name} {reference.protocol.get(name)} of {first.method}"
                other = f"{result.protocol.get(name)} of {cell.method}"
                yield f"{cell.data}, not measured alike: {usual}, {other}"


def _override_lines(results: Mapping[Cell, CellResult]) -> Iterator[str]:
    """Yields the flags beside the YAML files, by the methods and data sets that had them."""
    runs: dict[tuple[str, str], list[str]] = {}
    for cell in results:
        runs[cell.method, cell.data] = cell.overrides
    runs_by_flag: dict[str, list[tuple[str, str]]] = {}
    for run, flags in runs.items():
        for flag in flags:
            runs_by_flag.setdefault(flag, []).append(run)
    flags_by_title: dict[str, list[str]] = {}
    for flag, some in runs_by_flag.items():
        flags_by_title.setdefault(_title(some, list(runs)), []).append(flag)
    for title, flags in flags_by_title.items():
        yield f"{title}: {' '.join(flags)}"


def _title(some: Sequence[tuple[str, str]], runs: Sequence[tuple[str, str]]) -> str:
    """Names some of the runs (method, data set): all, whole methods or data sets, or each."""
    if len(some) == len(runs):
        return "all"
    for part in (0, 1):  # methods, data sets
        names = list(dict.fromkeys(run[part] for run in some))
        covered = sum(run[part] in names for run in runs)
        if len(some) == covered:
            return ", ".join(names)
    return ", ".join(map(" on ".join, some))


def environment(results: Mapping[Cell, CellResult]) -> list[str]:
    """Returns what the costs depend on: devices, and the size of images."""
    devices = ", ".join(sorted({result.device for result in results.values()}))
    lines = [f"on {devices}; other work on the machine counts too"]
    for cell, result in results.items():
        line = f"{cell.method} on {cell.data}: {result.protocol.get('resolution')}"
        if line not in lines:
            lines.append(line)
    return lines
