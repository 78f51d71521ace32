"""The steps of a run once it is built: fit, test and the results."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.cli.run import RunCLI
from lightning_ad.errors import Interrupted, Preempted, Stopped, UserError
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


def end_trial(run: RunCLI) -> RunFolder:
    """Ends a run of a few batches, whose numbers mean nothing, without results.

    Returns:
        The folder of the run, which is gone.
    """
    if run.trainer.is_global_zero:
        run.folder.discard()
    rank_zero_info(
        "trainer.fast_dev_run: a few batches went through training, validation and test; nothing "
        "is kept"
    )
    return run.folder


def finish(run: RunCLI, watch: Stopwatch) -> RunFolder:
    """Writes and prints what a test found.

    Returns:
        The folder of the results on all processes, once they are written.

    Raises:
        UserError: on the other processes, if the first one could not write.
    """
    error: BaseException | None = None
    try:
        summarise(run, watch)
    except Stopped as stop:
        if not run.folder.finished:
            error = Preempted(f"{stop.signal}: stopped in the report: {_then(run, 'tests again')}")
    except BaseException as raised:
        error = raised
    code = run.trainer.strategy.broadcast(_exit_code(error))  # the others wait here
    if error is not None:
        raise error
    if code == Preempted.exit_code:
        raise Preempted("the first process was stopped in the report")
    if code:
        raise UserError("the results could not be written: the first process says why")
    return run.recorder.folder


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    return getattr(error, "exit_code", 1)


def _then(run: RunCLI, resumed: str) -> str:
    return f"--resume {resumed}" if run.keeps_checkpoints else "nothing is kept"


@contextmanager
def interruptible(run: RunCLI) -> Iterator[None]:
    """Says how to go on after Ctrl+C, at which Lightning ends the program without a word.

    Also after another signal at a moment when nothing more could be kept.

    Raises:
        Interrupted: in place of the interrupt.
        Preempted: in place of `Stopped`.
    """
    try:
        yield
    except Stopped as stop:
        raise Preempted(f"{stop.signal}: stopped; {_state(run.folder)}") from stop
    except (SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, SystemExit) and not run.trainer.interrupted:
            raise
        raise Interrupted(f"interrupted; {_state(run.folder)}") from error


def _state(folder: RunFolder) -> str:
    """Says what is there of a run, and what --resume does then."""
    if folder.finished:
        return f"{folder.path} is finished"
    if folder.resumable:
        return f"{folder.path} is unfinished, --resume goes on with it"
    return f"{folder.path} is unfinished, --resume begins it anew, for nothing was kept yet"
