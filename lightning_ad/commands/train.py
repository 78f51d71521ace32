"""What the commands do: train, evaluate, preview."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

from lightning.pytorch import Trainer

from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.cli import RunCLI
from lightning_ad.cli.evaluate import load_learned, own_config
from lightning_ad.cli.forecast import announce
from lightning_ad.cli.parser import split_flags
from lightning_ad.cli.settings import with_demo
from lightning_ad.errors import Interrupted, UsageError, UserError
from lightning_ad.reporting.summary import summarise
from lightning_ad.system.cost import Stopwatch
from lightning_ad.system.run_folder import RunFolder


def train(args: Sequence[str] | None = None) -> RunFolder:
    """One run: fits, tests and writes the run folder.

    Args:
        args: the flags; None for those of the command line. Without a --config, the demo is run.

    Raises:
        UserError: for whatever the user can put right.
    """
    args = list(sys.argv[1:] if args is None else args)
    extended = next((b for a, b in pairwise(split_flags(args)) if a == "--extend"), None)
    with own_config(Path(extended)) if extended else nullcontext([]) as own:
        if extended and (unwanted := [a for a in args if a.startswith("--model")]):
            raise UsageError(
                f"{unwanted[0]} has no place here: the run that is extended decides the method"
            )
        cli = RunCLI([*own, *args] if extended else with_demo(args))
    announce(cli.model, cli.datamodule, cli.trainer, resumed=cli.resumed)
    cli.keep_features()
    watch = Stopwatch()
    checkpoint = str(cli.folder.last_checkpoint) if cli.resumed else None
    with _interruptible(cli):
        with watch.stage("fit"):
            cli.trainer.fit(
                cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True
            )
        for kept in (c for c in cli.trainer.callbacks if isinstance(c, ConfigInCheckpoint)):
            watch.go_on(kept.spent_before(cli.model))
        if cli.trainer.is_global_zero:
            shutil.rmtree(cli.folder.progress, ignore_errors=True)  # the summary is in a checkpoint
        with watch.stage("test"):
            if cli.config_init.trainer.enable_checkpointing is not False:
                load_learned(cli, _of_the_first(cli.trainer, cli.tested_checkpoint))
            cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        summarise(cli, watch)
    return cli.folder


def _of_the_first(trainer: Trainer, found: Callable[[], Path]) -> Path:
    """What `found` gives on the first process, on all of them; its error too."""
    result: Path | UserError | None = None
    if trainer.is_global_zero:
        try:
            result = found()
        except UserError as error:
            result = error
    result = trainer.strategy.broadcast(result)
    if isinstance(result, UserError):
        raise result
    assert result is not None
    return result


@contextmanager
def _interruptible(cli: RunCLI) -> Iterator[None]:
    """On Ctrl+C, Lightning ends the program without a word; says how to go on instead."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, SystemExit) and not cli.trainer.interrupted:
            raise
        there = cli.folder.last_checkpoint.is_file() or cli.folder.progress.is_dir()
        then = "goes on with it" if there else "begins it anew, for nothing was kept yet"
        raise Interrupted(
            f"interrupted; {cli.folder.path} is unfinished, --resume {then}"
        ) from error
