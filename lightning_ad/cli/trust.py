"""Which classes a configuration may name: importing one runs the code of its module."""

import re
from collections.abc import Iterator, Sequence

from jsonargparse import set_parsing_settings

from lightning_ad.errors import UsageError

KNOWN = ("lightning_ad", "lightning", "torch.optim")
REFUSED_IMPORT = re.compile(r"Importing '([^']+)' is not allowed")  # in jsonargparse's messages

_trusted_before: set[str] = set()  # by earlier command lines of this process


def allow_imports(words: Sequence[str]) -> None:
    """Limits what the parser imports: `KNOWN`, and the packages that `--trust` names.

    No other flag's value allows a package, and no YAML file can: jsonargparse checks each import,
    and what the imported name turns out to be. What an earlier command line of this process has
    trusted is not trusted any more.

    Args:
        words: the command line.

    Raises:
        UsageError: if `--trust` lists something that is not a package name.
    """
    trusted: set[str] = set()
    for value in _values_of_trust(words):
        trusted |= set(_packages(value))
    allowed = sorted({*KNOWN, *trusted} - {"jsonargparse"})
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
