"""`lightning-ad train`: one run, or a series of them."""

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from lightning_ad.cli.evaluate import own_config
from lightning_ad.cli.forecast import announce
from lightning_ad.cli.run import RunCLI
from lightning_ad.cli.settings import of_one_run, split_flags, with_demo
from lightning_ad.cli.steps import end_trial, finish, fit, interruptible, test
from lightning_ad.commands.series import parts_of, train_each
from lightning_ad.errors import UsageError
from lightning_ad.system.cost import Stopwatch
from lightning_ad.system.run_folder import RunFolder


def run(arguments: argparse.Namespace) -> int:
    """Trains once, or once for each category or fold if the flags name several.

    Returns:
        The exit code.

    Raises:
        UserError: for anything that the user can put right.
    """
    one = of_one_run(arguments.flags)
    if one is not None:
        train(one)
        return 0
    parts = parts_of(arguments.flags)
    if parts.names:
        return train_each(arguments.flags, parts)
    train(arguments.flags)
    return 0


def train(args: Sequence[str] | None = None) -> RunFolder:
    """Fits, tests and writes the run folder.

    Args:
        args: the flags; None for those of the command line. Without a --config, the demo is run.

    Returns:
        The run folder, the same on all processes.

    Raises:
        UserError: for whatever the user can put right.
    """
    run = parse(list(sys.argv[1:] if args is None else args))
    try:
        return _train(run)
    finally:
        run.folder.unlock()


def _train(run: RunCLI) -> RunFolder:
    resumed = run.resume_from is not None
    announce(run.model, run.datamodule, run.trainer, resumed)
    watch = Stopwatch()
    with interruptible(run):
        fit(run, watch)
        test(run, run.tested_checkpoint(), watch)
        if run.is_trial:
            return end_trial(run)
        return finish(run, watch)


def parse(args: list[str]) -> RunCLI:
    """Builds the run that the flags ask for.

    Raises:
        UserError: for whatever the user can put right.
    """
    extended = _value(args, "--extend")
    if extended is None:
        return RunCLI(with_demo(args))
    for arg in args:
        if arg.startswith("--model"):
            raise UsageError(
                f"{arg} has no place here: the run that is extended decides the method"
            )
    with own_config(Path(extended)) as own:
        return RunCLI([*own, *args])


def _value(args: list[str], flag: str) -> str | None:
    """Returns what follows a flag; None if it is not there."""
    for name, value in pairwise(split_flags(args)):
        if name == flag:
            return value
    return None
