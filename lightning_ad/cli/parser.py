"""The parser of flags and YAML files; its errors are one sentence."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from lightning_ad import methods
from lightning_ad.errors import UsageError

BASES = (methods.AnomalyModule, methods.LearnedModule, methods.FitOnlyModule)
METHODS = [n for n, c in vars(methods).items() if isinstance(c, type) and issubclass(c, BASES) and c not in BASES]


class Parser(LightningArgumentParser):
    """Lightning's parser; an error is a sentence of ours, not the list of all flags."""

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """The configuration that the flags make, as jsonargparse's.

        Raises:
            UsageError: saying what was expected, what came, and what to do.
        """
        for flag, value in pairwise(args or []):
            if flag in ("-c", "--config"):
                _check_yaml(Path(value))
        return super().parse_args(args, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the parsing with a `UsageError`."""
        if not self.exit_on_error:  # a part of the flags; the whole says it again, and where it is
            super().error(message, ex)
        flags = [f for action in self._actions for f in action.option_strings if f.startswith("--")]
        raise UsageError(explain(message, flags)) from ex


def explain(message: str, flags: Iterable[str] = ()) -> str:
    """One sentence for an error of jsonargparse.

    Args:
        message: what jsonargparse says.
        flags: all flags that there are, of which the nearest to a mistyped one is named.

    Returns:
        The sentence; the message itself where it is of no known form.
    """
    inner = message[message.rindex("Parser key") :] if "Parser key" in message else message
    key = ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', message)))
    keys = [flag.removeprefix("--") for flag in flags]
    if name := _first(r"unrecognized arguments: (\S+)", message):
        return _unknown("flag", name.partition("=")[0], flags)
    if found := re.search(r"Group '([\w.]+)' does not accept option '(\w+)'", message):
        return _unknown("key", f"{found[1]}.{found[2]}", keys)
    if name := _first(r"Option '([^']+)' is not accepted", message):
        owners = re.findall(r"class_path '([\w.]+)'", message)
        return _unknown_setting(name, owners[-1]) if owners else _unknown("key", name, keys)
    if name := _first(r"Expected a dot import path string: (\S+)", message):
        known = METHODS if key == "model" else []
        listed = f"; there is {', '.join(known)}" if known else ""
        return f"{key}: there is no class '{name}'{_nearest(name, known)}{listed}"
    if found := re.search(r"Expected an? (.+)\. Got value: (.*)", inner):
        return f"{key}: expected {_plain(found[1])}; {found[2]!r} came"
    if found := re.search(r"Subtypes: \[([^\n]+)\]\n.*Given value: ([^\n]*)", inner, re.DOTALL):
        return f"{key}: expected {_plain(found[1])}; {found[2]!r} came"
    return message


def _check_yaml(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"there is no file {path} (--config)")
    try:
        yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    return f"there is no {kind} '{name}'{_nearest(name, known)}; --help lists all"


def _unknown_setting(name: str, owner: str) -> str:
    module, _, kind = owner.rpartition(".")
    known = signature(getattr(import_module(module), kind)).parameters
    where = f"--model.help {kind}" if kind in METHODS else "its documentation"
    return f"{kind} has no setting '{name}'{_nearest(name, known)}; {where} lists all"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f", did you mean '{near[0]}'" if near else ""


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None


def _plain(types: str) -> str:
    """`<class 'int'>, <class 'NoneType'>` as `int, null`."""
    types = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", types)
    return re.sub(r"typing\.Literal\[(.*?)\]", r"\1", types).replace("NoneType", "null")
