"""Which runs a benchmark consists of."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_ad.cli.settings import GivenSettings, split_flags, without
from lightning_ad.data.layouts import categories, layout_module, layout_names
from lightning_ad.errors import UsageError
from lightning_ad.system.names import file_name, known_name
from lightning_ad.system.paths import user_path

RUN_PREFIXES = ("model", "data", "trainer")  # of the flags of train
UNREPORTED = (
    "--data.root",
    "--data.num_workers",
    "--trust",
    "--trainer.enable_progress_bar",
    "--progress_minutes",
)
# These change no metric: a cell may go on elsewhere, or faster.
FREE = (*UNREPORTED, "--feature_cache", "--feature_cache_gb")
SET_BY_CELLS = (
    "--output",
    "--name",
    "--resume",
    "--seed_everything",
    "--data.category",
    "--extend",
    "--data.fold",
)


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark.

    Attributes:
        method: the name of the method's YAML file.
        data: the name of the data set's YAML file.
        category: of the data set; None if it has none.
        seed: of everything that is random.
        flags: of `lightning-ad train`, without `--output` and `--name`.
    """

    method: str
    data: str
    category: str | None
    seed: int
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its run."""
        parts = [self.method, self.data, f"seed{self.seed}"]
        if self.category:
            parts.insert(2, file_name(self.category))
        return "-".join(parts)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result: the flags, and hashes of the YAML files among them."""
        flags: list[str] = []
        hashes: dict[str, str] = {}
        for part in split_flags(without(self.flags, *FREE)):
            if flags and flags[-1] == "--config":
                file = user_path(part)
                hashes[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
                part = file.name
            flags.append(part)
        return {"flags": flags, "files": hashes}

    def difference(self, earlier: str) -> str | None:
        """Returns how the settings differ from those that a run was begun with, None if they don't.

        Args:
            earlier: the settings of the run, as JSON.
        """
        before = json.loads(earlier)
        now = self.settings
        for name, content in now["files"].items():
            if before["files"].get(name, content) != content:
                return f"{name} holds other settings than it did"
        flags_before = without(before["flags"], *FREE)  # an earlier version had fewer free ones
        old = _values_by_flag(flags_before)
        new = _values_by_flag(now["flags"])
        for flag in {**old, **new}:
            was = old.get(flag, "not given")
            is_now = new.get(flag, "not given")
            if was != is_now:
                return f"{flag} was {was}, now it is {is_now}"
        if flags_before != now["flags"]:
            return "its flags come in another order"
        return None

    @property
    def overrides(self) -> list[str]:
        """The flags beside the YAML files, with their values; of files the names alone."""
        set_elsewhere = ("--config", "--data.category", "--seed_everything", *UNREPORTED)
        flags: list[str] = []
        for part in split_flags(without(self.flags, *set_elsewhere)):
            flags.append(Path(part).name if "/" in part else part)
        return [f"{flag} {value}".rstrip() for flag, value in _values_by_flag(flags).items()]


def _values_by_flag(parts: Sequence[str]) -> dict[str, str]:
    """Returns the value of each flag, empty without one; the values of a repeated flag together."""
    values: dict[str, str] = {}
    for part, following in itertools.pairwise([*parts, "--"]):
        if not part.startswith("--"):
            continue
        value = "" if following.startswith("--") else following
        if part in values:
            value = f"{values[part]} {value}"
        values[part] = value
    return values


def plan(
    methods: Sequence[Path],
    data: Sequence[Path],
    wanted: str | None,
    seeds: Sequence[int],
    flags: Sequence[str],
) -> list[Cell]:
    """Returns the cells in the order of the table: by data set, category, method and seed.

    Args:
        methods: YAML files, one for each method.
        data: YAML files, one for each data set.
        wanted: categories between commas, or `all`; None if no data set has any.
        seeds: one run for each.
        flags: of `lightning-ad train`, for all cells; `--<method>.<flag>` and
            `--<data set>.<flag>`, by the names of the YAML files, for those of one method or one
            data set.

    Raises:
        UsageError: if a data set lacks the categories, a flag is one that cells set themselves, or
            two files have one name.
    """
    names = [file.stem for file in (*methods, *data)]
    _check_names(names)
    special = _flags_by_owner(_checked_flags(flags), names)
    cells: list[Cell] = []
    for place in data:
        found: list[Cell] = []
        for method in methods:
            files = ["--config", str(method), "--config", str(place)]
            common = [*files, *special[""], *special[place.stem], *special[method.stem]]
            for category in _categories(common, place.stem, wanted):
                found += _cells(method.stem, place.stem, category, seeds, common)
        # A stable sort: methods and seeds stay as they are.
        cells += sorted(found, key=lambda cell: cell.category or "")
    return cells


def _cells(
    method: str, data: str, category: str | None, seeds: Sequence[int], flags: Sequence[str]
) -> list[Cell]:
    """Returns a cell for each seed."""
    flags = tuple(flags)
    if category:
        flags = (*flags, "--data.category", category)
    cell = Cell(method, data, category, 0, flags)
    return [
        replace(cell, seed=seed, flags=(*flags, "--seed_everything", str(seed))) for seed in seeds
    ]


def _check_names(names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UsageError(
                f"two files are called {name}: name them differently, cells are told apart by it"
            )
        if name in RUN_PREFIXES:
            raise UsageError(
                f"a file called {name} takes the flags --{name}.<...> of all cells: name it "
                "differently"
            )


def _checked_flags(flags: Sequence[str]) -> list[str]:
    parts: list[str] = []
    for part in split_flags(flags):
        if part in SET_BY_CELLS:
            raise UsageError(
                f"{part} is not for the cells of a benchmark: see lightning-ad benchmark --help"
            )
        parts.append("--config" if part == "-c" else part)
    return parts


def _flags_by_owner(parts: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Returns the flags by the name before their first dot; those of all cells under ""."""
    flags: dict[str, list[str]] = {name: [] for name in ("", *names)}
    owner = ""
    for part in parts:
        if part.startswith("--"):
            name, _, rest = part.removeprefix("--").partition(".")
            if rest and name not in (*RUN_PREFIXES, *names):
                raise UsageError(
                    f"{part}: there is no method or data set '{name}' here; there is "
                    f"{', '.join(names)}"
                )
            owner = ""
            if name in names:
                owner = name
                part = f"--{rest}"
        flags[owner].append(part)
    return flags


def _categories(flags: Sequence[str], data: str, wanted: str | None) -> list[str | None]:
    """Returns the categories of a data set that get cells; [None] for one without categories."""
    given = GivenSettings(flags)
    known = _known_categories(given, data)
    if not known:
        if wanted not in (None, "all"):
            raise UsageError(
                f"--categories {wanted}: the layout '{given.layout}' finds no categories in "
                f"{given.root}"
            )
        return [given.get("data.category")]
    if wanted is None:
        raise UsageError(
            f"{data} has categories: add --categories all, or some of {', '.join(known)}"
        )
    if wanted == "all":
        return [*known]
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if known_name(name, known) is None:
            raise UsageError(
                f"there is no category '{name}' in {given.root}; there is {', '.join(known)}"
            )
    return [*names]


def _known_categories(given: GivenSettings, data: str) -> list[str]:
    if given.layout not in layout_names():
        raise UsageError(
            f"{data} has no data.layout: give a YAML file of a data set, such as "
            "configs/data/mvtec.yaml"
        )
    is_made_here = hasattr(layout_module(given.layout), "prepare")
    if not given.root.is_dir() and not is_made_here:
        raise UsageError(
            f"there is no folder {given.root}, where {data} is looked for: give another by "
            f"--{data}.data.root"
        )
    return categories(given.layout, given.root, given.layout_options())
