"""Which runs a benchmark is made of."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_ad.cli.parser import split_flags
from lightning_ad.cli.settings import options, setting, without
from lightning_ad.data.layouts import categories, layout_module, layout_names
from lightning_ad.errors import UsageError

OF_RUNS = ("model", "data", "trainer")  # what the flags of train.py begin with
UNTOLD = (
    "--data.root",
    "--data.num_workers",
    "--trust",
    "--trainer.enable_progress_bar",
    "--progress_minutes",
)
FREE = (
    *UNTOLD,
    "--feature_cache",
    "--feature_cache_gb",
)  # change no metric: a cell may go on elsewhere, or faster


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark.

    Attributes:
        method: the name of its YAML file.
        data: likewise, of the data set.
        category: of the data set; None where it has none.
        seed: of everything that is drawn.
        flags: those of `train.py`, but for `--output` and `--name`.
    """

    method: str
    data: str
    category: str | None
    seed: int
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its run."""
        return "-".join(filter(None, (self.method, self.data, self.category, f"seed{self.seed}")))

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result: the flags, and what their YAML files hold."""
        kept = split_flags(without(self.flags, *FREE))
        files = [value for flag, value in itertools.pairwise(kept) if flag == "--config"]
        held = {
            Path(file).name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files
        }
        return {
            "flags": [Path(part).name if part in files else part for part in kept],
            "files": held,
        }

    def difference(self, earlier: str) -> str | None:
        """What a run that was begun with other settings differs in, `earlier` as JSON; None where it does not."""
        before, now = json.loads(earlier), self.settings
        if changed := [
            name for name, text in now["files"].items() if before["files"].get(name, text) != text
        ]:
            return f"{changed[0]} holds other settings than it did"
        # What an earlier version took for a setting may be none any more.
        kept, flags = without(before["flags"], *FREE), now["flags"]
        earlier_pairs, pairs = _pairs(kept), _pairs(flags)
        for flag in {**earlier_pairs, **pairs}:
            old, new = (each.get(flag, "not given") for each in (earlier_pairs, pairs))
            if old != new:
                return f"{flag} was {old}, now it is {new}"
        return None if kept == flags else "its flags come in another order"

    @property
    def departures(self) -> list[str]:
        """The flags that it is run with beside its YAML files, with their values; files by their names."""
        kept = split_flags(
            without(self.flags, "--config", "--data.category", "--seed_everything", *UNTOLD)
        )
        named = _pairs([Path(part).name if "/" in part else part for part in kept])
        return [f"{flag} {value}".rstrip() for flag, value in named.items()]


def _pairs(flags: Sequence[str]) -> dict[str, str]:
    """Values by flag; YAML files among one another, and of a flag that comes twice both."""
    found: dict[str, str] = {}
    for number, part in enumerate(flags):
        if part.startswith("--"):
            value = (
                flags[number + 1]
                if number + 1 < len(flags) and not flags[number + 1].startswith("--")
                else ""
            )
            found[part] = f"{found[part]} {value}" if part in found else value
    return found


def plan(
    methods: Sequence[Path],
    data: Sequence[Path],
    wanted: str | None,
    seeds: Sequence[int],
    flags: Sequence[str],
) -> list[Cell]:
    """The cells in the order of the table: by data set, category, method and seed.

    Args:
        methods: YAML files, one a method.
        data: YAML files, one a data set.
        wanted: categories between commas, or `all`; None where no data set has any.
        seeds: one run for each.
        flags: of `train.py`, for all cells; `--<method>.<flag>` and `--<data set>.<flag>`, by the names of the YAML
            files, for those of one method or one data set.

    Raises:
        UsageError: for a data set without the categories that are wanted, a flag that cells give themselves, or two
            files of one name.
    """
    names = [file.stem for file in (*methods, *data)]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UsageError(
                f"two files are called {name}: name them differently, cells are told apart by it"
            )
        if name in OF_RUNS:
            raise UsageError(
                f"a file called {name} takes the flags --{name}.<...> of all cells: name it differently"
            )
    parts = ["--config" if part == "-c" else part for part in split_flags(flags)]
    own = (
        "--output",
        "--name",
        "--resume",
        "--seed_everything",
        "--data.category",
        "--extend",
        "--data.fold",
    )
    if taken := next((part for part in parts if part in own), None):
        raise UsageError(
            f"{taken} is not for the cells of a benchmark: see lightning-ad benchmark --help"
        )
    special = _special(parts, names)
    cells = []
    for place in data:
        for method in methods:
            files = ["--config", str(method), "--config", str(place)]
            each = [*files, *special[""], *special[place.stem], *special[method.stem]]
            for category in _categories(each, place.stem, wanted):
                at = ["--data.category", category] if category else []
                cell = Cell(method.stem, place.stem, category, 0, (*each, *at))
                cells += [
                    replace(cell, seed=seed, flags=(*cell.flags, "--seed_everything", str(seed)))
                    for seed in seeds
                ]
    order = {file.stem: number for number, file in enumerate(data)}
    return sorted(
        cells, key=lambda c: (order[c.data], c.category or "")
    )  # stable: methods and seeds stay as they are


def _special(parts: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """The flags by the name before their first dot; under an empty one those of all cells."""
    found: dict[str, list[str]] = {"": [], **{name: [] for name in names}}
    owner = ""
    for part in parts:
        if part.startswith("--"):
            name, _, rest = part.removeprefix("--").partition(".")
            if rest and name not in (*OF_RUNS, *names):
                raise UsageError(
                    f"{part}: there is no method or data set '{name}' here; there is {', '.join(names)}"
                )
            owner = name if name in names else ""
            part = f"--{rest}" if owner else part
        found[owner].append(part)
    return found


def _categories(flags: Sequence[str], data: str, wanted: str | None) -> Iterator[str | None]:
    layout, root = (
        str(setting(flags, "data.layout") or ""),
        Path(str(setting(flags, "data.root") or ".")),
    )
    if layout not in layout_names():
        raise UsageError(
            f"{data} says no data.layout: give a YAML file of a data set, such as configs/data/mvtec.yaml"
        )
    if not root.is_dir() and not hasattr(layout_module(layout), "prepare"):
        raise UsageError(
            f"there is no folder {root}, where {data} is looked for: give another by --{data}.data.root"
        )
    there = categories(layout, root, options(flags, layout))
    if not there and wanted not in (None, "all"):
        raise UsageError(
            f"--categories {wanted}: the layout '{layout}' finds no categories in {root}"
        )
    if not there:
        yield setting(flags, "data.category")
        return
    if wanted is None:
        raise UsageError(
            f"{data} has categories: add --categories all, or some of {', '.join(there)}"
        )
    for name in (
        there if wanted == "all" else [name.strip() for name in wanted.split(",") if name.strip()]
    ):
        if name not in there:
            raise UsageError(
                f"there is no category '{name}' in {root}; there is {', '.join(there)}"
            )
        yield name
