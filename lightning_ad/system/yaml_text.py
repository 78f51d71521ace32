"""Reads YAML from anywhere: what is none, or would grow without bounds, is refused at once."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

LONGEST = 300_000  # characters; the settings of a run are a few thousand
MOST_VALUES = 20_000  # once each alias stands for what it names
DEEPEST = 50  # lists and mappings within each other
CHARACTERS_OF_A_VALUE = 100  # a longer text counts as several values

_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # a byte of a name that is not UTF-8
_FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotYamlError(yaml.YAMLError):
    """A text is not YAML, or more of it than anybody would write; the message says why."""


def load_yaml(text: str) -> Any:
    """Reads a text as plain values.

    Raises:
        NotYamlError: if it cannot be read, or is refused by `check_yaml`.
    """
    check_yaml(text)
    try:
        return yaml.load(text, _loader(text))
    except Exception as error:  # a wrong tag raises whatever Python does with its value
        raise NotYamlError(_in_one_line(error)) from error


def check_yaml(text: str) -> None:
    """Looks at a text without building anything from it.

    A few lines of aliases can stand for billions of values, or for a list that holds itself.

    Raises:
        NotYamlError: if it is not YAML, too long or too deep, or stands for too many values.
    """
    if len(text) > LONGEST:
        raise NotYamlError(f"it has {len(text)} characters; more than {LONGEST} are refused")
    try:
        _count(yaml.parse(text, _loader(text)))
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise NotYamlError(_in_one_line(error)) from error


def needs_python(text: str) -> bool:
    """Whether a text holds what the fast parser, libyaml, refuses and Python's takes."""
    return _HALF_CHARACTER.search(text) is not None


def _loader(text: str) -> Any:
    return yaml.SafeLoader if needs_python(text) else _FastLoader


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _count(events: Iterator[yaml.Event]) -> None:
    """Counts the values that a text stands for."""
    sizes: dict[str | None, int] = {}  # of what has a name
    names: list[str | None] = []  # of the lists and mappings around the place
    starts: list[int] = []  # their places
    count = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.pop(event.anchor, None)
            names.append(event.anchor)
            starts.append(count)
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            sizes[names.pop()] = count - starts.pop()
        elif isinstance(event, yaml.AliasEvent):
            count += _size_of_alias(sizes, event.anchor)
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = 1 + len(event.value) // CHARACTERS_OF_A_VALUE
            count += sizes[event.anchor]
        _check_bounds(count, len(starts))


def _size_of_alias(sizes: dict[str | None, int], name: str) -> int:
    if name not in sizes:
        raise NotYamlError(f"the alias *{name} stands within what it names, or names nothing")
    return sizes[name]


def _check_bounds(count: int, depth: int) -> None:
    if count > MOST_VALUES:
        raise NotYamlError(f"it stands for more than {MOST_VALUES} values")
    if depth > DEEPEST:
        raise NotYamlError(f"more than {DEEPEST} lists and mappings are within each other")
