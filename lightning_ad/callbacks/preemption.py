"""Graceful stop on signals: keeps what was done, and exits so that a scheduler starts it again."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.system.distributed import world_size
from lightning_ad.system.signals import (
    StopAtOnce,
    handle_signals,
    restore_handlers,
    write_notice,
)
from lightning_ad.system.stop_request import StopRequest


class StopOnSignal(Callback):
    """Ends a run on SIGTERM, SIGUSR1 or Ctrl+C to any process, after the current step.

    A checkpoint then holds what was done. A second Ctrl+C ends the run at once. A validation, or
    the summary of a fit-only method that makes no selection, is finished first.

    Takes the place of Lightning's own handlers, which write no checkpoint, or one that a resumed
    run does not find.

    Args:
        checkpoint: the file that `--resume` goes on from; None to write none.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint
        self._request = StopRequest()
        self._interrupted = False
        self._kept = ""  # what was written, once it was
        self._handlers_before: dict[signal.Signals, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sets the signal handlers."""
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the signal handlers anew: Lightning has set its own meanwhile.

        Raises:
            Preempted: after a signal.
        """
        self._listen(trainer)
        if isinstance(pl_module, FitOnlyModule) and pl_module.progress is not None:
            pl_module.progress.listen_to(self._request)
        if self._stop_requested(trainer):
            self._request.stop(f"before the first batch: {self._then('begins there')}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the signal handlers anew, as `on_train_start`.

        Raises:
            Preempted: after a signal.
        """
        self._listen(trainer)
        self._stop_in_test(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops before the report is written.

        Raises:
            Preempted: after a signal.
        """
        self._stop_in_test(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the earlier signal handlers, and hands them a signal that came too late."""
        before = dict(self._handlers_before)
        self._restore()
        number = self._request.number
        if number is not None and world_size() == 1 and callable(before.get(number)):
            signal.raise_signal(number)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restores the handlers here too: Lightning calls `teardown` only after success."""
        self._take_over(trainer)
        self._restore()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Writes the checkpoint of a learned method, or the progress of a fit-only one.

        Raises:
            Preempted: after a signal, if there is nothing to keep.
        """
        if _must_go_on(trainer) or not self._stop_requested(trainer):
            return
        if isinstance(pl_module, FitOnlyModule):
            then = _save_progress(pl_module)
            self._request.stop(f"while the training images were read: {then}")
        if self.checkpoint is None:
            self._request.stop("and nothing is kept: trainer.enable_checkpointing is false")
        trainer.save_checkpoint(self.checkpoint)
        epoch = trainer.current_epoch + 1
        self._kept = f"after batch {batch_idx + 1} of epoch {epoch}: --resume goes on from there"

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Stops, once the loggers have what the last step gave them.

        Raises:
            Preempted: after a signal.
        """
        if self._kept:
            self._request.stop(self._kept)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops between two epochs.

        Raises:
            Preempted: after a signal.
        """
        if trainer.current_epoch and self._stop_requested(trainer):
            then = self._then("goes on from there")
            self._request.stop(f"after epoch {trainer.current_epoch}: {then}")

    def on_test_batch_end(self, trainer: Trainer, *_: object, **__: object) -> None:
        """Stops: what was learned is in its checkpoint.

        Raises:
            Preempted: after a signal.
        """
        self._stop_in_test(trainer)

    def _stop_in_test(self, trainer: Trainer) -> None:
        if self._stop_requested(trainer):
            self._request.stop(f"in the test: {self._then('tests again')}")

    def _then(self, resumed: str) -> str:
        """Returns what becomes of the run."""
        return "nothing is kept" if self.checkpoint is None else f"--resume {resumed}"

    def _stop_requested(self, trainer: Trainer) -> bool:
        return self._request.made_anywhere(trainer.strategy.root_device)

    def _listen(self, trainer: Trainer) -> None:
        for number in StopAtOnce.heard:  # before the trainer ran
            self._request.make(number)
        if threading.current_thread() is threading.main_thread():
            before = handle_signals(self._hear)
            self._handlers_before = self._handlers_before or before
            self._take_over(trainer)

    def _take_over(self, trainer: Trainer) -> None:
        """Keeps Lightning from ending the run by exit code 0, and from restoring our handlers."""
        lightning = trainer._signal_connector
        lightning.received_sigterm = False
        for number in self._handlers_before:
            lightning._original_handlers.pop(number, None)

    def _restore(self) -> None:
        restore_handlers(self._handlers_before)
        self._handlers_before.clear()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._request.make(number)
        if number != signal.SIGINT:
            return
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        if rank_zero_only.rank == 0:
            write_notice("stopping after this step (Ctrl+C again: at once)")


def _must_go_on(trainer: Trainer) -> bool:
    """Returns whether gradients wait for more batches, or an epoch's end or a validation is next.

    The end comes early if a callback has ended the training, or at trainer.max_steps.

    At its end, an epoch has its own checkpoint, which its validation may not be kept from.
    """
    loop = trainer.fit_loop.epoch_loop
    if loop.batch_progress.is_last_batch or loop.done or loop._should_accumulate():
        return True
    return loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def _save_progress(method: FitOnlyModule) -> str:
    """Keeps what a fit has observed; returns what --resume does then."""
    if method.save_progress():
        return "--resume goes on with those that are left"
    if not method.can_resume:
        name = type(method).__name__
        return f"{name} keeps nothing of an unfinished fit, and --resume reads them anew"
    return "--resume reads them anew"
