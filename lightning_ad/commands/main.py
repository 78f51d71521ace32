"""`train.py`, `evaluate.py` and `lightning-ad`: which command is meant, and how errors are explained."""

import sys
from collections.abc import Callable, Sequence

from lightning_ad.cli.messages import run
from lightning_ad.commands.benchmark.command import benchmark
from lightning_ad.commands.compare import compare
from lightning_ad.commands.datasets import datasets
from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.preview import preview
from lightning_ad.commands.series import several, train_each
from lightning_ad.commands.train import train
from lightning_ad.commands.verify import verify
from lightning_ad.system.run_folder import RunFolder


def train_one_or_each(args: Sequence[str] | None = None) -> RunFolder | int:
    """`train.py`: one run, or one for each where --data.category is `all` or a list, or --data.fold is `all`.

    Raises:
        UserError: for whatever the user can put right.
    """
    args = list(sys.argv[1:] if args is None else args)
    parts = several(args)
    return train_each(args, parts) if parts.names else train(args)


def evaluate_or_compare(args: Sequence[str] | None = None) -> RunFolder | int:
    """`evaluate.py RUN`, `evaluate.py --compare RUN_A RUN_B` or `evaluate.py --verify RUN`.

    Raises:
        UserError: for whatever the user can put right.
    """
    args = list(sys.argv[1:] if args is None else args)
    if args[:1] == ["--verify"]:
        return verify(args[1:])
    return compare(args[1:]) if args[:1] == ["--compare"] else evaluate(args)


COMMANDS: dict[str, Callable[[Sequence[str]], object]] = {
    "train": train_one_or_each,
    "evaluate": evaluate_or_compare,
    "compare": compare,
    "verify": verify,
    "preview": preview,
    "datasets": datasets,
    "benchmark": benchmark,
}


def main(words: Sequence[str]) -> int:
    """Runs the command that the first word names, with the flags after it, and returns the exit code."""
    name = words[0] if words else ""
    if name not in COMMANDS:
        print(
            f"usage: lightning-ad {{{','.join(COMMANDS)}}} ...   (--help after the command explains its flags)"
        )
        return 0 if name in ("-h", "--help") else 2
    return run(lambda: COMMANDS[name](words[1:]))
