"""Which classes a configuration may name: importing one runs the code of its module."""

import re
from collections.abc import Sequence
from itertools import pairwise

from jsonargparse import set_parsing_settings

from lightning_ad.errors import UsageError

KNOWN = ("lightning_ad", "lightning", "torch.optim")
REFUSED_IMPORT = re.compile(r"Importing '([^']+)' is not allowed")  # in jsonargparse's messages


def allow_imports(flags: Sequence[str]) -> None:
    """Limits what the parser imports: `KNOWN`, the packages of `--trust`, and paths typed as flags.

    A YAML file cannot name anything else, in whatever form: jsonargparse checks each import, and
    what the imported name turns out to be.

    Args:
        flags: the command line, with `--flag=value` split in two.

    Raises:
        UsageError: if `--trust` lists something that is not a package name.
    """
    trusted: list[str] = []
    typed: list[str] = []
    for flag, value in pairwise(flags):
        if flag == "--trust":
            trusted += _packages(value)
        if flag.startswith("--") and "." in value and _is_dotted_name(value):
            typed.append(value.partition(".")[0])
    allowed = [name for name in (*KNOWN, *trusted, *typed) if name != "jsonargparse"]
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)


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
