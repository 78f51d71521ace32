"""Which classes a configuration may name: to import one is to run its module."""

import re
from collections.abc import Sequence
from itertools import pairwise

from jsonargparse import set_parsing_settings

from lightning_ad.errors import UsageError

KNOWN = ("lightning_ad", "lightning", "torch.optim")


def allow_imports(flags: Sequence[str]) -> None:
    """From here on, the parser imports what is of `KNOWN`, of packages that `--trust` lists, or typed as a flag.

    Not what YAML files name beside these, by whatever way: jsonargparse asks at each import, and of what the name turns
    out to be too.

    Args:
        flags: of the command line, values apart.

    Raises:
        UsageError: where `--trust` lists what is no package.
    """
    listed = [
        name.strip()
        for flag, value in pairwise(flags)
        if flag == "--trust"
        for name in value.split(",")
    ]
    if wrong := [
        name for name in listed if not all(part.isidentifier() for part in name.split("."))
    ]:
        raise UsageError(
            f"--trust takes packages between commas, such as my_package; {wrong[0]!r} came"
        )
    typed = [
        value.partition(".")[0]
        for flag, value in pairwise(flags)
        if flag.startswith("--") and _is_path(value)
    ]
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[
            name for name in (*KNOWN, *listed, *typed) if name != "jsonargparse"
        ],
    )


def denied(message: str) -> str | None:
    """The sentence for the parser's message, where it has refused an import; None for another message."""
    found = re.search(r"Importing '([^']+)' is not allowed", message)
    if found is None:
        return None
    return (
        f"the configuration names {found[1]}, which is not of {', '.join(KNOWN)}: what is imported for it can run any "
        f"code. If you know where it comes from, add --trust {found[1].partition('.')[0]}"
    )


def _is_path(value: str) -> bool:
    return "." in value and all(part.isidentifier() for part in value.split("."))
