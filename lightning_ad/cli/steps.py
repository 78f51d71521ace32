"""The steps of a run once it is built: fit and test."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.cli.run import RunCLI
from lightning_ad.errors import Interrupted
from lightning_ad.features.weights import read_state
from lightning_ad.system.cost import Stopwatch


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


def test(run: RunCLI, watch: Stopwatch) -> None:
    """Tests what is in the run's checkpoint."""
    with watch.stage("test"):
        checkpoint = run.tested_checkpoint()
        if checkpoint is not None:
            load_learned(run, checkpoint)
        run.trainer.test(run.model, datamodule=run.datamodule, verbose=False)


def load_learned(run: RunCLI, checkpoint: Path) -> None:
    """Gives the model what is in a checkpoint; a gallery too large for memory stays in the file."""
    learned = read_state(checkpoint)
    metric = run.config_init.select
    if metric != "last":
        rank_zero_info(f"--select {metric}: epoch {learned['epoch']} is tested")
    run.training_set = learned.get(ConfigInCheckpoint.TRAINING_SET, run.training_set)
    run.model.load_learned(learned)


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
