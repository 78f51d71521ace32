"""The parser of flags and YAML files; its errors are one sentence."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from lightning_ad import methods
from lightning_ad.cli.trust import allow_imports, denied
from lightning_ad.errors import UsageError, UserError

BASES = (methods.AnomalyModule, methods.LearnedModule, methods.FitOnlyModule)
METHODS = [
    n
    for n, c in vars(methods).items()
    if isinstance(c, type) and issubclass(c, BASES) and c not in BASES
]


class Parser(LightningArgumentParser):
    """Lightning's parser; an error is a sentence of ours, not the list of all flags."""

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """The configuration that the flags make, as jsonargparse's; of the trainer's settings, 1 is not 1.0.

        Raises:
            UsageError: saying what was expected, what came, and what to do.
        """
        flags = split_flags(args or [])
        allow_imports(flags)
        for action in self._actions:
            if hint := vars(action).get("_typehint"):
                action._typehint = whole_numbers_first(hint)
        for flag, value in pairwise(flags):
            if flag in ("-c", "--config"):
                _check_yaml(Path(value))
        return super().parse_args(args, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the parsing with a `UsageError`."""
        if not self.exit_on_error:  # a part of the flags; the whole says it again, and where it is
            super().error(message, ex)
        flags = [f for action in self._actions for f in action.option_strings if f.startswith("--")]
        raise UsageError(explain(message, flags)) from ex


def whole_numbers_first(hint: Any) -> Any:
    """A union that tries int before float, so that one batch (`trainer.limit_test_batches 1`) is not all (1.0).

    `typing` keeps what it makes of `Optional[Union[float, int]]`, and gives it for Lightning's
    `Optional[Union[int, float]]`, too: to its cache, both unions are the same.
    """
    kinds = get_args(hint)
    if get_origin(hint) is not Union or int not in kinds or float not in kinds[: kinds.index(int)]:
        return hint
    return Union[tuple(sorted(kinds, key=lambda kind: kind is not int))]  # noqa: UP007 (`|` may find the other one)


def explain(message: str, flags: Iterable[str] = ()) -> str:
    """One sentence for an error of jsonargparse.

    Args:
        message: what jsonargparse says.
        flags: all flags that there are, of which the nearest to a mistyped one is named.

    Returns:
        The sentence; the message itself where it is of no known form.
    """
    if refused := denied(message):
        return refused
    keys = [flag.removeprefix("--") for flag in flags]
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        return _unknown("flag", found[1].partition("=")[0], flags)
    if found := re.search(r"Group '([\w.]+)' does not accept option '(\w+)'", message):
        return _unknown("key", f"{found[1]}.{found[2]}", keys)
    if found := re.search(
        rf"arguments are required: (.+)\n(?:.*\n)*?.*Given value: {_OBJECT}", message
    ):
        return f"{_key(message, found)}: {_name(found[2])} needs {found[1]} (--{_key(message, found)}.{found[1]})"
    # Of the alternatives that were tried, the first is the one that was meant.
    found = re.search(
        rf"Option '([^']+)' is not accepted(?:\. Got value: {_OBJECT})?|{_TYPED}", message
    )
    if found and found[1]:
        owners = re.findall(r"class_path '([\w.]+)'", message[: found.start()])
        owner = found[2] or next(iter(owners[::-1]), None)
        return _unknown_setting(found[1], owner) if owner else _unknown("key", found[1], keys)
    if found:
        return f"{_key(message, found)}: expected {_plain(found[3])}; {found[4]!r} came"
    inner = message[message.rindex("Parser key") :] if "Parser key" in message else message
    found = re.search(r"Subtypes: \[([^\n]+)\]\n.*?Given value: ([^\n]*)", inner, re.DOTALL)
    wanted = re.search(
        r"Expected a dot import path string: (\S+)|module '[\w.]+' has no attribute '(\w+)'", inner
    )
    if wanted and not (found and re.search(r"'(float|int|str|bool)'", found[1])):
        key = _key(message, wanted) or message.partition(":")[0]
        known = METHODS if key.startswith(("model", "--model")) else []
        listed = f"; there is {', '.join(known)}" if known else ""
        name = wanted[1] or wanted[2]
        return f"{key}: there is no class '{name}'{nearest(name, known)}{listed}"
    if found:
        value = re.sub(r"\. Got value: .*", "", found[2])
        return f"{_key(message)}: expected {_plain(found[1])}; {value!r} came"
    return message


_OBJECT = r"Namespace\(class_path='([\w.]+)'"
_TYPED = r"Expected an? (.+)\. Got value: (.*)"


def split_flags(args: Iterable[str]) -> list[str]:
    """`--flag=value` as two."""
    return [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--") else [arg])]


def _check_yaml(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"there is no file {path} (--config)")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no settings: expected keys such as model, data and trainer")


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    return f"there is no {kind} '{name}'{nearest(name, known)}; --help lists all"


def _unknown_setting(name: str, owner: str) -> str:
    module, kind = owner.rpartition(".")[0], _name(owner)
    known = [*signature(getattr(import_module(module), kind)).parameters, "init_args"]
    where = f"--model.help {kind}" if kind in METHODS else "its documentation"
    return (
        f"{kind} has no setting '{name}'{nearest(name.partition('.')[0], known)}; {where} lists all"
    )


def _key(message: str, found: re.Match[str] | None = None) -> str:
    """Where in the configuration `found` is."""
    before = message[: found.start()] if found else message
    return ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', before)))


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def nearest(name: str, known: Iterable[str]) -> str:
    """The words that ask for the most similar of the known names; empty where none is similar."""
    near = get_close_matches(name, list(known), n=1)
    return f", did you mean '{near[0]}'" if near else ""


def _plain(types: str) -> str:
    """`<class 'int'>, <class 'NoneType'>` as `int, null`."""
    types = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", types)
    return re.sub(r"typing\.Literal\[(.*?)\]", r"\1", types).replace("NoneType", "null")


def users_error(error: BaseException) -> UserError | None:
    """What the user can put right among an error's causes."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    return cause


def unmade(error: ValueError) -> UserError | None:
    """What a logger or a callback said when it was made; the parser lists it among all it tried."""
    found = re.search(r"\(implicit class_path\)\n\s*- ([^\n]+)", str(error))
    return (
        UsageError(
            f"a part of the trainer (trainer.logger, trainer.callbacks) cannot be made: {found[1]}"
        )
        if found
        else None
    )
