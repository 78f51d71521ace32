"""`lightning-ad`, `train.py` and `evaluate.py`: the table of commands, and how one is run."""

import argparse
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from lightning_ad.commands import arguments
from lightning_ad.errors import UsageError, did_you_mean
from lightning_ad.system.names import show


class Command(NamedTuple):
    """A word that a user can type.

    Attributes:
        help: what it does, in a line.
        module: where its function `run` is.
        add_arguments: declares what it takes; None if it takes the flags of a run alone.
    """

    help: str
    module: str
    add_arguments: Callable[[arguments.CommandParser], None] | None = None

    def run(self, parsed: argparse.Namespace) -> object:
        """Imports the command, which takes seconds for most, and runs it."""
        return import_module(self.module).run(parsed)


COMMANDS = {
    "train": Command(
        "fit a method, test it and write a run folder; without flags, the demo",
        "lightning_ad.commands.train",
    ),
    "evaluate": Command(
        "compute the metrics of a finished run again, to the last digit, or on other data",
        "lightning_ad.commands.evaluate",
        arguments.evaluate,
    ),
    "compare": Command(
        "compare two runs on the same test images",
        "lightning_ad.commands.compare",
        arguments.compare,
    ),
    "verify": Command(
        "check that a run's recorded metrics come out of its checkpoint again",
        "lightning_ad.commands.verify",
        arguments.verify,
    ),
    "preview": Command(
        "draw the synthetic anomalies that a configuration trains on",
        "lightning_ad.commands.preview",
    ),
    "datasets": Command(
        "list the data sets that can be read, or check the files of one",
        "lightning_ad.commands.datasets",
        arguments.datasets,
    ),
    "benchmark": Command(
        "run methods on data sets with several seeds and write one table",
        "lightning_ad.commands.benchmark.command",
        arguments.benchmark,
    ),
}
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
WORDS_OF_EVALUATE = {"--compare": "compare", "--verify": "verify"}  # evaluate.py --compare A B


def main(words: Sequence[str]) -> int:
    """Runs the command that the first word names and returns the exit code.

    Args:
        words: what was typed after `lightning-ad`.
    """
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else UsageError.exit_code
    try:
        command, parsed = parse(words)
    except UsageError as error:
        show(f"error: {error}", as_error=True)
        return error.exit_code
    _drop_ranks_that_are_no_numbers()
    run = import_module("lightning_ad.cli.messages").run
    return run(lambda: command.run(parsed))


def _drop_ranks_that_are_no_numbers() -> None:
    """Removes what no launcher has set; Lightning would end with a trace as it is imported."""
    for name in RANKS:
        if not os.environ.get(name, "0").strip().isdecimal():
            del os.environ[name]


def parse(words: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """Returns the command that the first word names and the arguments after it.

    The arguments have `flags`, the flags of a run among them, if the command takes these.

    Raises:
        UsageError: for an unknown command, or arguments that it does not take.
    """
    name, *rest = words
    if name == "evaluate" and rest and rest[0] in WORDS_OF_EVALUATE:
        name = WORDS_OF_EVALUATE[rest.pop(0)]
    if name == "evaluate" and not rest:
        rest = ["--help"]
    if name not in COMMANDS:
        suggestion = did_you_mean(name, COMMANDS)
        raise UsageError(f"there is no command '{name}'{suggestion}; lightning-ad --help lists all")
    command = COMMANDS[name]
    if command.add_arguments is None:
        return command, argparse.Namespace(flags=rest)
    parser = arguments.CommandParser(
        f"lightning-ad {name}",
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return command, parser.read(rest)


def overview() -> str:
    """Returns the list of commands, a line for each."""
    lines = [f"  {name:<10} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lightning-ad COMMAND ...",
            "",
            "Visual anomaly detection: learns from good images alone.",
            "",
            "commands:",
            *lines,
            "",
            "lightning-ad COMMAND --help explains what a command takes.",
        ]
    )
