"""The steps of a run once it is built: fit, test and the results."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.cli.run import RunCLI
from lightning_ad.errors import Interrupted, UserError
from lightning_ad.reporting.summary import summarise
from lightning_ad.system.cost import Stopwatch
from lightning_ad.system.run_folder import RunFolder


def fit(run: RunCLI, watch: Stopwatch) -> None:
    """Fits the model, from the start or from where the run was stopped."""
    with watch.stage("fit"):
        run.trainer.fit(
            run.model, datamodule=run.datamodule, ckpt_path=run.resume_from, weights_only=True
        )
    for callback in run.trainer.callbacks:
        if isinstance(callback, ConfigInCheckpoint):
            watch.go_on(callback.spent_before(run.model))
    if run.trainer.is_global_zero:
        shutil.rmtree(run.folder.progress, ignore_errors=True)  # the summary is in a checkpoint


def test(run: RunCLI, checkpoint: Path | None, watch: Stopwatch) -> None:
    """Tests what is in a checkpoint; the weights as they are without one."""
    with watch.stage("test"):
        if checkpoint is not None:
            run.load_learned(checkpoint)
        run.trainer.test(run.model, datamodule=run.datamodule, verbose=False)


def finish(run: RunCLI, watch: Stopwatch) -> RunFolder:
    """Writes and prints what a test found.

    Returns:
        The folder of the results on all processes, once they are written.

    Raises:
        UserError: on the other processes, if the first one could not write.
    """
    error: Exception | None = None
    try:
        summarise(run, watch)
    except Exception as raised:
        error = raised
    failed = run.trainer.strategy.broadcast(error is not None)  # the others wait here
    if error is not None:
        raise error
    if failed:
        raise UserError("the results could not be written: the first process says why")
    return run.recorder.folder


@contextmanager
def interruptible(run: RunCLI) -> Iterator[None]:
    """Says how to go on after Ctrl+C, at which Lightning ends the program without a word.

    Raises:
        Interrupted: in place of the interrupt.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, SystemExit) and not run.trainer.interrupted:
            raise
        then = "begins it anew, for nothing was kept yet"
        if run.folder.resumable:
            then = "goes on with it"
        raise Interrupted(
            f"interrupted; {run.folder.path} is unfinished, --resume {then}"
        ) from error
