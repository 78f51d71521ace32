"""`lightning-ad evaluate RUN`: the metrics of a finished run again, or on other data."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_ad.cli.evaluate import EvaluateCLI, own_config
from lightning_ad.cli.fit_only import preprocessing_differences
from lightning_ad.cli.steps import finish, test
from lightning_ad.errors import UsageError
from lightning_ad.system.cost import Stopwatch
from lightning_ad.system.run_folder import RunFolder, finished_checkpoint

DECIDED = ("--model", "--config", "-c", "--resume", "--name")  # flags that the run itself decides


def run(arguments: argparse.Namespace) -> None:
    """Tests the run that is named."""
    evaluate([str(arguments.run), *arguments.flags])


def evaluate(args: Sequence[str] | None = None) -> RunFolder:
    """Tests a finished run again, on its own data or, with --data.* flags, on others.

    Args:
        args: the run and flags; None for those of the command line.

    Returns:
        The folder of the results, the same on all processes.

    Raises:
        UserError: for whatever the user can put right.
    """
    words = sys.argv[1:] if args is None else args
    if not words:
        raise UsageError(
            "name a run to evaluate: its folder, such as runs/patchcore-mtd, or a .ckpt file"
        )
    target, *flags = words
    run = parse(Path(target), flags)
    watch = Stopwatch()
    test(run, run.checkpoint, watch)
    return finish(run, watch)


def parse(target: Path, flags: list[str]) -> EvaluateCLI:
    """Builds a finished run again.

    Args:
        target: its folder, or a checkpoint.
        flags: those that the run does not decide.

    Raises:
        UserError: for whatever the user can put right.
    """
    for flag in flags:
        if flag.startswith(DECIDED):
            raise UsageError(
                f"{flag} has no place here: the checkpoint decides the method and its arguments"
            )
    beside = None
    if target.suffix != ".ckpt":
        beside = RunFolder.find(target)
    if _names(flags, "--output"):
        beside = None
    with own_config(target) as own:
        run = EvaluateCLI([*own, *flags], finished_checkpoint(target), beside)
        differences = preprocessing_differences(Path(own[1]).read_text(), run.config.data)
    all_tested = run.datamodule.layout_options.get("test_share") == 1
    if run.datamodule.layout == "folder" and _names(flags, "--data.root") and not all_tested:
        rank_zero_info(
            "Good images of the folder that count as training images are not tested; if the method "
            "has not learned from them, add --data.layout_options.test_share 1"
        )
    if differences:
        rank_zero_warn(
            f"{target} was trained with {differences}: scores of images that are preprocessed "
            "differently are not comparable, and these metrics are not those of the run"
        )
    return run


def _names(flags: list[str], name: str) -> bool:
    """Whether the flags have one that begins so."""
    return any(flag.startswith(name) for flag in flags)
