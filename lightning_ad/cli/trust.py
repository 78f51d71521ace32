"""Which classes a configuration may name: importing one runs the code of its module."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from jsonargparse import set_parsing_settings

from lightning_ad.cli.settings import split_flags
from lightning_ad.errors import UsageError

KNOWN = ("lightning_ad", "lightning", "torch.optim")
# Flags whose value is a class: to type one is to ask for its code, and for nothing else.
CLASS_FLAGS = frozenset(
    [
        "--model",
        "--model.optimizer",
        "--model.lr_scheduler",
        "--trainer.callbacks",
        "--trainer.logger",
        "--trainer.plugins",
        "--trainer.profiler",
        "--trainer.strategy",
    ]
)
REFUSED_IMPORT = re.compile(r"Importing '([^']+)' is not allowed")  # in jsonargparse's messages

_trusted_before: set[str] = set()  # by earlier command lines of this process


def allow_imports(words: Sequence[str]) -> None:
    """Limits what the parser imports: `KNOWN`, the packages of `--trust`, and typed classes.

    A class that is typed after one of `CLASS_FLAGS` is allowed itself, and not its package. No
    other flag's value allows anything, and no YAML file can: jsonargparse checks each import, and
    what the imported name turns out to be. What an earlier command line of this process has trusted
    is not trusted any more.

    Args:
        words: the command line.

    Raises:
        UsageError: if `--trust` lists something that is not a package name.
    """
    trusted = set(_typed_classes(words))
    for value in _values_of_trust(words):
        trusted |= set(_packages(value))
    packages = {*KNOWN, *trusted}
    again = {name for name in _trusted_before if _is_within(name, packages)}
    allowed = sorted({*packages, *again} - {"jsonargparse"})
    set_parsing_settings(
        import_path_denylist=["*", *sorted(_trusted_before)], import_path_allowlist=allowed
    )
    _trusted_before.update(trusted - {"jsonargparse"})


def _values_of_trust(words: Sequence[str]) -> Iterator[str]:
    for place, word in enumerate(words):
        if word.startswith("--trust="):
            yield word.removeprefix("--trust=")
        elif word == "--trust" and place + 1 < len(words):
            yield words[place + 1]


def _is_within(name: str, packages: Iterable[str]) -> bool:
    """Returns whether a name is that of a package, or of something in it."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _typed_classes(words: Sequence[str]) -> Iterator[str]:
    for flag, value in pairwise(split_flags(words)):
        takes_class = flag.removesuffix("+") in CLASS_FLAGS
        if takes_class and "." in value and _is_dotted_name(value):
            yield value


def refusal(path: str) -> str:
    """Returns the message for a class that a configuration names and that may not be imported."""
    package = path.partition(".")[0]
    return (
        f"the configuration names {path}, which is not of {', '.join(KNOWN)}: importing it can run "
        f"any code. If you know where it comes from, add --trust {package}"
    )


def _packages(value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if not _is_dotted_name(name):
            raise UsageError(
                f"--trust: expected packages between commas, such as my_package; got {name!r}"
            )
    return names


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))
