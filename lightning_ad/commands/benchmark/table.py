"""From finished runs to the rows of a table: mean and interval over seeds, cost, and what was published."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import yaml
from scipy.special import stdtrit

from lightning_ad.commands.benchmark.cells import Cell
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.reporting.provenance import differences
from lightning_ad.system.run_folder import RunFolder

MEAN = "mean"
COSTS = {
    "fit_seconds": "fit, s",
    "images_per_second": "test, images/s",
    "peak_memory_gib": "peak memory, GiB",
    "checkpoint_mib": "checkpoint, MiB",
}


class Estimate(NamedTuple):
    """A mean over seeds; the 95 % interval of Student's t reaches `half` to both sides, None for a single run."""

    mean: float
    half: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Of at least one value."""
        if len(values) < 2:
            return cls(values[0])
        return cls(
            fmean(values),
            float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values)),
        )


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        data: the name of the data set.
        category: empty where it has none; `mean` for the mean over all that are there.
        method: the class; of a published number too.
        configuration: the name of the method's YAML file; empty for a published number.
        runs: how many seeds; 0 for a published number.
        metrics: by name; those that are not known are left out.
        costs: by the names of `COSTS`, means over seeds, the largest of peak memory; likewise.
        note: where a published number is from; of how many categories a mean is, where some are missing.
    """

    data: str
    category: str
    method: str
    configuration: str
    runs: int
    metrics: Mapping[str, Estimate]
    costs: Mapping[str, float]
    note: str = ""


class Result(NamedTuple):
    """Of a finished cell."""

    method: str
    layout: str
    metrics: dict[str, float | None]
    costs: dict[str, float]
    protocol: dict[str, Any]
    device: str


def result(folder: RunFolder) -> Result:
    """Reads a finished run."""
    found = json.loads(folder.metrics.read_text())
    config = yaml.safe_load(folder.config.read_text())
    seconds, counts = found["seconds"], found["counts"]
    costs = {
        "fit_seconds": seconds["fit"],
        "images_per_second": counts["test"] / seconds["test"],
        "peak_memory_gib": max(found["peak_memory_gib"].values()),
        "checkpoint_mib": folder.checkpoint.stat().st_size / 2**20
        if folder.checkpoint.is_file()
        else math.nan,
    }
    method, layout = config["model"]["class_path"].rpartition(".")[2], config["data"]["layout"]
    return Result(method, layout, found["metrics"], costs, found["protocol"], found["device"])


def rows(results: Mapping[Cell, Result]) -> list[Row]:
    """The table: for each data set its categories, and their mean; published numbers below the measured ones."""
    made = []
    for data in dict.fromkeys(cell.data for cell in results):
        own = {cell: r for cell, r in results.items() if cell.data == data}
        names = list(dict.fromkeys(cell.category or "" for cell in own))
        for category in names:
            made += _of_category(
                data, category, {c: r for c, r in own.items() if (c.category or "") == category}
            )
        if len(names) > 1:
            made += _means(data, names, own)
    return made


def _of_category(data: str, category: str, results: Mapping[Cell, Result]) -> Iterator[Row]:
    for name in dict.fromkeys(cell.method for cell in results):
        runs = [r for cell, r in results.items() if cell.method == name]
        yield Row(data, category, runs[0].method, name, len(runs), *_over_seeds(runs))
        yield from _published(runs[0], data, category)


def _means(data: str, names: Sequence[str], results: Mapping[Cell, Result]) -> Iterator[Row]:
    """Of each method, over the categories for which all of its seeds are there."""
    for name in dict.fromkeys(cell.method for cell in results):
        own = {cell: r for cell, r in results.items() if cell.method == name}
        seeds = sorted({cell.seed for cell in own})
        by = {(cell.category, cell.seed): r for cell, r in own.items()}
        whole = [category for category in names if all((category, seed) in by for seed in seeds)]
        if not whole:
            continue
        means = [_mean([by[category, seed] for category in whole]) for seed in seeds]
        note = "" if len(whole) == len(names) else f"{len(whole)} of {len(names)} categories"
        yield Row(data, MEAN, means[0].method, name, len(seeds), *_over_seeds(means), note)
        yield from _published_mean(means[0], data, whole)


def _mean(runs: Sequence[Result]) -> Result:
    """Over categories; a metric that one of them lacks is lacking."""
    metrics: dict[str, float | None] = {}
    for name in METRIC_NAMES:
        values = [r.metrics[name] for r in runs]
        metrics[name] = None if None in values else fmean(v for v in values if v is not None)
    costs = {name: fmean(r.costs[name] for r in runs) for name in COSTS}
    costs["peak_memory_gib"] = max(r.costs["peak_memory_gib"] for r in runs)
    return runs[0]._replace(metrics=metrics, costs=costs)


def _over_seeds(runs: Sequence[Result]) -> tuple[dict[str, Estimate], dict[str, float]]:
    metrics = {}
    for name in METRIC_NAMES:
        values = [v for r in runs if (v := r.metrics[name]) is not None]
        if len(values) == len(runs):
            metrics[name] = Estimate.of(values)
    return metrics, _mean(runs).costs


def _published(of: Result, data: str, category: str) -> Iterator[Row]:
    """One row for each source."""
    found = [
        p
        for p in published()
        if (p["method"], p["data"], p["category"]) == (of.method, of.layout, category)
    ]
    for source in dict.fromkeys(p["source"] for p in found):
        metrics = {p["metric"]: Estimate(float(p["value"])) for p in found if p["source"] == source}
        yield Row(data, category, of.method, "", 0, metrics, {}, source)


def _published_mean(of: Result, data: str, categories: Sequence[str]) -> Iterator[Row]:
    """The published mean, where it is of these categories; or else the mean of what was published for each of them."""
    every = {p["category"] for p in published() if p["data"] == of.layout} - {MEAN, ""}
    if every and every <= {*categories}:
        yield from _published(of, data, MEAN)
        return
    parts = [row for category in categories for row in _published(of, data, category)]
    for source in dict.fromkeys(row.note for row in parts):
        own = [row.metrics for row in parts if row.note == source]
        named = [
            name
            for name in METRIC_NAMES
            if len(own) == len(categories) and all(name in m for m in own)
        ]
        if named:
            metrics = {name: Estimate(fmean(m[name].mean for m in own)) for name in named}
            yield Row(
                data, MEAN, of.method, "", 0, metrics, {}, f"{source}, mean of these categories"
            )


@cache
def published() -> list[dict[str, str]]:
    """published.csv: method, data (the layout), category, metric, value in [0, 1] and source of published numbers."""
    with Path(__file__).with_name("published.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def reservations(results: Mapping[Cell, Result]) -> list[str]:
    """What is to be known of the numbers: departures of methods from their YAML files, and who saw images otherwise."""
    told = [*_departures(results)]
    for data in dict.fromkeys(cell.data for cell in results):
        own = [(cell, r) for cell, r in results.items() if cell.data == data]
        for category in dict.fromkeys(cell.category for cell, _ in own):
            (first, reference), *others = [(c, r) for c, r in own if c.category == category]
            for cell, other in others:
                told += [
                    f"{data}, not measured alike: {name} {reference.protocol.get(name)} of {first.method}, "
                    f"{other.protocol.get(name)} of {cell.method}"
                    for name in (
                        line.partition(":")[0]
                        for line in differences(reference.protocol, other.protocol)
                    )
                    if name != "resolution"  # which the resize tells
                ]
    return list(dict.fromkeys(told))


def _departures(results: Mapping[Cell, Result]) -> Iterator[str]:
    """Flags that are not of the YAML files, by the methods and data sets that had them."""
    runs = {(cell.method, cell.data): cell.departures for cell in results}
    having: dict[str, list[tuple[str, str]]] = {}
    for run, flags in runs.items():
        for flag in flags:
            having.setdefault(flag, []).append(run)
    by: dict[str, list[str]] = {}
    for flag, own in having.items():
        by.setdefault(_named(own, [*runs]), []).append(flag)
    for name, flags in by.items():
        yield f"{name}: {' '.join(flags)}"


def _named(some: Sequence[tuple[str, str]], runs: Sequence[tuple[str, str]]) -> str:
    """What to call some of the runs (method, data set): all, or whole methods or data sets where that is what they
    are."""
    if len(some) == len(runs):
        return "all"
    for part in (0, 1):
        names = dict.fromkeys(run[part] for run in some)
        if len(some) == sum(run[part] in names for run in runs):
            return ", ".join(names)
    return ", ".join(f"{method} on {data}" for method, data in some)


def circumstances(results: Mapping[Cell, Result]) -> list[str]:
    """What costs are of: devices, and the size of images."""
    devices = ", ".join(sorted({r.device for r in results.values()}))
    sizes = dict.fromkeys(
        f"{cell.method} on {cell.data}: {r.protocol.get('resolution')}"
        for cell, r in results.items()
    )
    return [f"on {devices}; other work on the machine counts too", *sizes]
