"""What flags and the YAML files among them say, before the parser of runs reads them.

A series and a benchmark write the flags of their runs, each in a process of its own. For that they
must know the categories, folds and names in what the user typed, without building a run.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from lightning_ad.data.layouts import option_names
from lightning_ad.errors import UsageError
from lightning_ad.system.paths import user_path, with_homes
from lightning_ad.system.yaml_text import NotYamlError, load_yaml

CATEGORY = "--data.category"
ONE_CATEGORY = "--one_category"  # by which a series and a benchmark name it to their runs
NAMED_BY_CONFIG = ("--model", "--data.layout", "--data.category")  # mean nothing without a --config
PARTS = ("data", "trainer")  # of a configuration, which hold settings by name


def split_flags(args: Iterable[str]) -> list[str]:
    """Splits each `--flag=value` in two, and each `-cvalue`."""
    parts: list[str] = []
    for arg in args:
        if arg.startswith("--"):
            parts += arg.split("=", 1)
        elif arg.startswith("-c") and len(arg) > len("-c"):
            parts += ["-c", arg.removeprefix("-c")]
        else:
            parts.append(arg)
    return parts


def read_config(path: Path) -> dict[str, Any]:
    """Reads a YAML file of settings.

    Raises:
        UsageError: if there is no such file, or it does not hold settings.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path} (--config)")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (NotYamlError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path} holds no settings: expected keys such as model, data and trainer")
    for part in PARTS:
        if not isinstance(content.get(part, {}), dict | str):
            raise UsageError(f"{path}: {part}: expected settings by name, got {content[part]!r}")
    return content


class _Flag(NamedTuple):
    key: str
    value: str

    def find(self, key: str) -> str | None:
        return self.value if key == self.key else None


class _File(NamedTuple):
    content: dict[str, Any]

    def find(self, key: str) -> Any:
        found: Any = self.content
        for part in key.split("."):
            if not isinstance(found, dict):
                return None
            found = found.get(part)
        return found


class GivenSettings:
    """The settings in flags and in the YAML files among them; of a key, the last one counts.

    Raises:
        UsageError: if a file is not there, or does not hold settings.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self._given: list[_Flag | _File] = []
        for flag, value in pairwise(split_flags(args)):
            if flag in ("-c", "--config"):
                self._given.append(_File(read_config(user_path(value))))
            elif flag.startswith("--"):
                self._given.append(_Flag(flag.removeprefix("--"), value))

    def get(self, key: str) -> Any:
        """Returns the value of a key such as `data.root`, `~` written out; None without one."""
        found: Any = None
        for given in self._given:
            value = given.find(key)
            if value is not None:
                found = value
        return with_homes(found)

    @property
    def layout(self) -> str:
        """The data set's layout; empty if it is not given."""
        return str(self.get("data.layout") or "")

    @property
    def root(self) -> Path:
        """The data set's folder."""
        return Path(str(self.get("data.root") or "."))

    @property
    def is_trial(self) -> bool:
        """Whether a few batches of each stage are only to show that they go through."""
        return str(self.get("trainer.fast_dev_run")).lower() not in ("none", "false", "null", "0")

    def layout_options(self) -> dict[str, Any]:
        """Returns the options of the layout that are given."""
        options: dict[str, Any] = {}
        for name in option_names(self.layout):
            value = self.get(f"data.layout_options.{name}")
            if value is not None:
                options[name] = value
        return options


def without(args: Sequence[str], *flags: str) -> list[str]:
    """Returns the words without some flags and their values; `--resume` has no value."""
    kept: list[str] = []
    parts = iter(split_flags(args))
    for part in parts:
        if part not in flags:
            kept.append(part)
        elif part != "--resume":
            next(parts, None)
    return kept


def as_one_run(args: Sequence[str]) -> list[str]:
    """Returns the flags of a run of one category, even if that is called `all` or has commas."""
    return [ONE_CATEGORY if part == CATEGORY else part for part in split_flags(args)]


def of_one_run(args: Sequence[str]) -> list[str] | None:
    """Returns the flags that `as_one_run` was given; None for others."""
    if ONE_CATEGORY not in args:
        return None
    return [CATEGORY if arg == ONE_CATEGORY else arg for arg in args]


def configs() -> Path:
    """Returns the folder of configs: beside the package in a checkout, in it if installed."""
    package = Path(__file__).parents[1]
    beside = package.parent / "configs"
    if (beside / "demo.yaml").is_file():
        return beside
    return package / "configs"


def config_of(class_path: str) -> Path | None:
    """Returns a method's own configuration: of several, the one with the shortest name.

    The demo is none of them. Returns None for a method without one.
    """
    found: list[Path] = []
    for file in sorted(configs().glob("*.yaml")):
        model = read_config(file).get("model") or {}
        if file.stem != "demo" and model.get("class_path") == class_path:
            found.append(file)
    return min(found, key=lambda file: len(file.stem), default=None)


def with_demo(args: Sequence[str]) -> list[str]:
    """Returns the flags; without a `--config`, with that of the demo.

    Raises:
        UsageError: if a method or data set is named without a `--config`.
    """
    args = list(args)
    names = {arg.partition("=")[0] for arg in args}
    asks_for_help = any(name.endswith(".help") for name in names)
    if asks_for_help or names & {"--config", "-c", "-h", "--help"}:
        return args
    for name in NAMED_BY_CONFIG:
        if name in names:
            raise UsageError(
                f"{name} without --config: name a method, for example by "
                "--config configs/patchcore.yaml"
            )
    rank_zero_info("No --config given: this is the demo (configs/demo.yaml).")
    return ["--config", str(configs() / "demo.yaml"), *args]
