"""What flags and the YAML files among them say, before the parser reads them."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

from lightning_ad.cli.parser import split_flags
from lightning_ad.data.layouts import option_names
from lightning_ad.errors import UsageError


def options(args: Sequence[str], layout: str) -> dict[str, Any]:
    """What the flags say of the options of a layout."""
    names = option_names(layout)
    found = {name: setting(args, f"data.layout_options.{name}") for name in names}
    return {name: value for name, value in found.items() if value is not None}


def setting(args: Sequence[str], key: str) -> Any:
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


def without(args: Sequence[str], *flags: str) -> list[str]:
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


def configs() -> Path:
    """The folder of configs: beside the package in a checkout, in it where it is installed."""
    package = Path(__file__).parents[1]
    return next(
        p for p in (package.parent / "configs", package / "configs") if (p / "demo.yaml").is_file()
    )


def with_demo(args: Sequence[str]) -> list[str]:
    """The flags; without a --config, those of the demo."""
    args = list(args)
    names = [a.partition("=")[0] for a in args]
    if {"--config", "-c", "-h", "--help"} & {*names} or any(n.endswith(".help") for n in names):
        return args
    if chosen := [n for n in names if n in ("--model", "--data.layout", "--data.category")]:
        raise UsageError(
            f"{chosen[0]} without --config: name a method by --config configs/patchcore.yaml, say"
        )
    rank_zero_info("No --config given: this is the demo (configs/demo.yaml).")
    return ["--config", str(configs() / "demo.yaml"), *args]
