"""The parser of flags and YAML files; its errors are one sentence each."""

import re
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from importlib import import_module
from inspect import signature
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn, Union, get_args, get_origin

from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser
from yaml import YAMLError

from lightning_ad.cli.settings import read_config, split_flags
from lightning_ad.cli.trust import REFUSED_IMPORT, allow_imports, refusal
from lightning_ad.errors import UsageError, UserError, did_you_mean
from lightning_ad.system.paths import user_path, with_homes
from lightning_ad.system.yaml_text import NotYamlError, check_yaml, load_yaml, needs_python


class Known(NamedTuple):
    """The names that exist.

    Attributes:
        flags: all flags.
        methods: the names that --model takes.
    """

    flags: Sequence[str] = ()
    methods: Sequence[str] = ()


NOTHING_KNOWN = Known()


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors are one sentence instead of the list of all flags.

    Args:
        method_names: the names that --model takes.
        options: of Lightning's parser.
    """

    def __init__(self, *args: Any, method_names: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self._method_names = method_names

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Returns the configuration, as jsonargparse does; of the trainer's settings, 1 is not 1.0.

        Raises:
            UsageError: with what was expected, what was given, and what to do.
        """
        flags = split_flags(args or [])
        if self.exit_on_error:  # else a part is parsed, whose words are not the command line
            allow_imports(args or [])
        for action in self._actions:
            if hint := vars(action).get("_typehint"):
                action._typehint = whole_numbers_first(hint)
        for flag, value in pairwise(flags):
            if flag in ("-c", "--config"):
                read_config(user_path(value))
        return super().parse_args(args, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the parsing with a `UsageError`."""
        if not self.exit_on_error:  # parsing a part: the whole repeats the error and adds its place
            super().error(message, ex)
        known = Known(self._flags(), self._method_names)
        raise UsageError(explain_parser_error(message, known)) from ex

    def _flags(self) -> list[str]:
        flags: list[str] = []
        for action in self._actions:
            flags += [option for option in action.option_strings if option.startswith("--")]
        return flags


def _load_within_bounds(load: Callable[[str], Any], text: str) -> Any:
    """Reads YAML as jsonargparse's loader does, if it is no more than anybody would write."""
    check_yaml(text)
    if needs_python(text):
        return load_yaml(text)
    try:
        return load(text)
    except YAMLError:
        raise
    except Exception as error:  # a wrong tag raises whatever Python does with its value
        raise NotYamlError(f"{type(error).__name__}: {error}") from error


# All files and values of flags that jsonargparse reads come by here.
set_loader("yaml", partial(_load_within_bounds, get_loader("yaml")), (YAMLError,))


def write_out_homes(config: Namespace) -> None:
    """Replaces `~` at the beginning of all paths in a configuration."""
    for name, value in vars(config).items():
        setattr(config, name, _with_homes(value))


def _with_homes(value: Any) -> Any:
    if isinstance(value, Namespace):
        write_out_homes(value)
        return value
    if isinstance(value, list):
        return [_with_homes(item) for item in value]
    return with_homes(value)


def whole_numbers_first(hint: Any) -> Any:
    """Returns a union with int before float, so that `trainer.limit_test_batches 1` is one batch.

    With float first, 1 would be read as 1.0, which means all batches. `typing` caches unions
    without regard to order: it may return `Optional[Union[float, int]]` for Lightning's
    `Optional[Union[int, float]]`.
    """
    kinds = get_args(hint)
    if get_origin(hint) is not Union or int not in kinds or float not in kinds[: kinds.index(int)]:
        return hint
    return Union[tuple(sorted(kinds, key=lambda kind: kind is not int))]  # noqa: UP007 (`|` may return the cached one)


def with_plain_text(settings: Any) -> Any:
    """Returns settings with the text of each enumerated one: YAML cannot write its own type.

    Lightning's Timer has one, of which no configuration could be written.
    """
    if isinstance(settings, Enum) and isinstance(settings, str):
        return str(settings.value)
    if isinstance(settings, list):
        return [with_plain_text(item) for item in settings]
    if isinstance(settings, Namespace):
        return Namespace(**{k: with_plain_text(item) for k, item in vars(settings).items()})
    return settings


def users_error(error: BaseException) -> UserError | None:
    """Returns the `UserError` among the causes of an error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    return cause


def unmade(error: ValueError) -> UserError | None:
    """Returns what a logger or a callback raised as it was built, out of the parser's message."""
    found = re.search(r"\(implicit class_path\)\n\s*- ([^\n]+)", str(error))
    if found is None:
        return None
    return UsageError(
        f"a part of the trainer (trainer.logger, trainer.callbacks) cannot be made: {found[1]}"
    )


def explain_parser_error(message: str, known: Known = NOTHING_KNOWN) -> str:
    """Turns an error of jsonargparse into one sentence.

    Args:
        message: jsonargparse's text.
        known: the names that exist; the nearest to a mistyped one is suggested.

    Returns:
        The sentence; `message` itself if its form is not known.
    """
    for rule in RULES:
        if found := rule.pattern.search(message):
            sentence = rule.sentence(found, known)
            if sentence is not None:
                return sentence
    return message


class Rule(NamedTuple):
    """A form of jsonargparse's errors.

    Attributes:
        pattern: finds it in the message.
        sentence: makes the sentence from the match and the names that exist; None leaves it to the
            next rule.
    """

    pattern: re.Pattern[str]
    sentence: Callable[[re.Match[str], Known], str | None]


def _refused_import(found: re.Match[str], known: Known) -> str:
    return refusal(found[1])


def _unknown_flag(found: re.Match[str], known: Known) -> str:
    name = found[1].partition("=")[0]
    return f"there is no flag '{name}'{did_you_mean(name, known.flags)}; --help lists all"


def _unknown_key_of_group(found: re.Match[str], known: Known) -> str:
    return _unknown_key(f"{found['group']}.{found['option']}", known)


def _missing_argument(found: re.Match[str], known: Known) -> str:
    key = _key(found.string[: found.start()])
    return f"{key}: {_class_name(found['owner'])} needs {found['name']} (--{key}.{found['name']})"


def _rejected(found: re.Match[str], known: Known) -> str:
    if found["option"] is None:
        key = _key(found.string[: found.start()])
        return f"{key}: expected {_types(found['type'])}, got {found['value']!r}"
    owners = re.findall(r"class_path '([\w.]+)'", found.string[: found.start()])
    if found["owner"]:
        return _unknown_setting(found["option"], found["owner"], known)
    if owners:
        return _unknown_setting(found["option"], owners[-1], known)
    return _unknown_key(found["option"], known)


def _out_of_range(found: re.Match[str], known: Known) -> str:
    bound = "above" if found["bound"] == ">" else "of at least"
    key = _key(found.string)
    return f"{key}: expected a number {bound} {found['limit']}, got {found['value']}"


def _no_number(found: re.Match[str], known: Known) -> str:
    return f"{_key(found.string)}: expected a number, got {found['value']}"


def _unknown_class(found: re.Match[str], known: Known) -> str | None:
    if re.search(r"Subtypes: \[[^\n]*'(float|int|str|bool)'", found[0]):
        return None  # a plain value is allowed too, and more likely to be meant
    key = _key(found.string[: found.end()])
    name = found["path"] or found["name"]
    if key != "model":
        return f"{key}: there is no class '{name}'"
    suggestion = did_you_mean(name, known.methods)
    return f"{key}: there is no class '{name}'{suggestion}; there is {', '.join(known.methods)}"


def _ambiguous_class(found: re.Match[str], known: Known) -> str:
    key = _key(found.string[: found.start()])
    return f"{key}: several classes are called '{found[1]}'; give one of {found[2]}"


def _no_alternative(found: re.Match[str], known: Known) -> str:
    value = re.sub(r"\. Got value: .*", "", found["value"])
    return f"{_key(found.string)}: expected {_types(found['types'])}, got {value!r}"


_OBJECT = r"\[?Namespace\(class_path='(?P<owner>[\w.]+)'"
# jsonargparse nests what it tried; the last key is the innermost.
_INNERMOST = r'(?s:Parser key "(?!.*Parser key ").*?)'
RULES = [
    Rule(REFUSED_IMPORT, _refused_import),
    Rule(re.compile(r"unrecognized arguments: (\S+)"), _unknown_flag),
    Rule(
        re.compile(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<option>\w+)'"),
        _unknown_key_of_group,
    ),
    Rule(
        re.compile(rf"arguments are required: (?P<name>.+)\n(?:.*\n)*?.*Given value: {_OBJECT}"),
        _missing_argument,
    ),
    # Of the alternatives that were tried, the first in the message is the one that was meant.
    Rule(
        re.compile(
            rf"Option '(?P<option>[^']+)' is not accepted(?:\. Got value: {_OBJECT})?"
            r"|Expected an? (?P<type>.+)\. Got value: (?P<value>.*)"
        ),
        _rejected,
    ),
    Rule(
        re.compile(
            r"(?P<value>\S+) does not conform to restriction v(?P<bound>>=?)(?P<limit>[\d.]+)"
        ),
        _out_of_range,
    ),
    Rule(
        re.compile(
            r"(?:could not convert string to float|invalid literal for int\(\).*): (?P<value>'.*')"
        ),
        _no_number,
    ),
    Rule(
        re.compile(r"Multiple subclasses with name (\w+)\. Give the full class path.*: (.*)\."),
        _ambiguous_class,
    ),
    Rule(
        re.compile(
            _INNERMOST + r"(?:Expected a dot import path string: (?P<path>\S+)"
            r"|module '[\w.]+' has no attribute '(?P<name>\w+)')"
        ),
        _unknown_class,
    ),
    Rule(
        re.compile(
            _INNERMOST + r"Subtypes: \[(?P<types>[^\n]+)\]\n(?s:.*?)Given value: (?P<value>[^\n]*)"
        ),
        _no_alternative,
    ),
]


def _unknown_key(name: str, known: Known) -> str:
    keys = [flag.removeprefix("--") for flag in known.flags]
    return f"there is no key '{name}'{did_you_mean(name, keys)}; --help lists all"


def _unknown_setting(name: str, owner: str, known: Known) -> str:
    module, _, kind = owner.rpartition(".")
    settings = [*signature(getattr(import_module(module), kind)).parameters, "init_args"]
    suggestion = did_you_mean(name.partition(".")[0], settings)
    source = f"--model.help {kind}" if kind in known.methods else "its documentation"
    return f"{kind} has no setting '{name}'{suggestion}; {source} lists all"


def _key(text: str) -> str:
    """Joins the keys that a message names, the outer ones first."""
    return ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', text)))


def _class_name(path: str) -> str:
    return path.rpartition(".")[2]


def _types(types: str) -> str:
    """Writes `<class 'int'>, <class 'NoneType'>` as `an int or null`."""
    types = re.sub(r"<class '([\w.]+)'>", r"\1", types)
    types = re.sub(r"\b(?:[a-z_]\w*\.)+(\w+)", r"\1", types)  # packages
    types = re.sub(r"\bLiteral\[(.*?)\]", r"\1", types).replace("NoneType", "null")
    *others, last = _split_at_commas(types)
    if others:
        last = f"{', '.join(others)} or {last}"
    if not last[0].isalpha():  # a value in quotes, or a number
        return last
    return f"an {last}" if last[0] in "AEIOaeio" else f"a {last}"


def _split_at_commas(text: str) -> list[str]:
    """Splits at the commas that no bracket encloses."""
    parts = [""]
    depth = 0
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
