"""Being told to stop: a job that is pre-empted keeps what it has done, and says by its exit code that it wants back."""

import signal
import threading
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lightning_ad.errors import Preempted
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.system.distributed import world_size
from lightning_ad.system.signals import _handle, _restore, say


class StopWhenTold(Callback):
    """On SIGTERM, SIGUSR1 or Ctrl+C, to any process: ends after the step that goes on, with a checkpoint of what was
    done. A second Ctrl+C ends the run at once.

    A validation, or the summary of a fit-only method that makes no selection, is brought to its end first.
    Takes the place of Lightning's own handlers, which write no checkpoint or one that a resumed run does not find.

    Args:
        checkpoint: the file that `--resume` goes on from; None to write none.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint
        self.told: signal.Signals | None = None
        self._interrupted = False
        self._kept = ""  # what was written, once it was
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens; Lightning has set its own handlers by now."""
        self._listen()
        if isinstance(pl_module, FitOnlyModule):
            pl_module.told, pl_module.stop = partial(self._anyone_told, trainer), self._stop

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens."""
        self._listen()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Signals mean what they meant before."""
        _restore(self._before)
        self._before.clear()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Likewise: Lightning tears down what has ended well."""
        self.teardown(trainer, pl_module, "")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Writes the checkpoint of a learned method, or the progress of a fit-only one.

        Not where gradients wait for more batches, or a validation is due; at its end, an epoch has its own checkpoint,
        which its validation may not be kept from.

        Raises:
            Preempted: after a signal, where there is nothing to keep.
        """
        loop = trainer.fit_loop.epoch_loop
        due = loop.batch_progress.is_last_batch or loop._should_check_val_fx(
            trainer.fit_loop._data_fetcher
        )
        if loop._should_accumulate() or due or not self._anyone_told(trainer):
            return
        if isinstance(pl_module, FitOnlyModule):
            kept = pl_module.keep_progress()
            then = "goes on with those that are left" if kept else "reads them anew"
            self._stop(f"while the training images were read: --resume {then}")
        if self.checkpoint is None:
            self._stop("and nothing is kept: trainer.enable_checkpointing is false")
        trainer.save_checkpoint(self.checkpoint)
        self._kept = f"after batch {batch_idx + 1} of epoch {trainer.current_epoch + 1}: --resume goes on from there"

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Stops, once the loggers have what the last step told them.

        Raises:
            Preempted: after a signal.
        """
        if self._kept:
            self._stop(self._kept)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops between two epochs.

        Raises:
            Preempted: after a signal.
        """
        if trainer.current_epoch and self._anyone_told(trainer):
            kept = "nothing is kept" if self.checkpoint is None else "--resume goes on from there"
            self._stop(f"after epoch {trainer.current_epoch}: {kept}")

    def on_test_batch_end(self, trainer: Trainer, *_: object, **__: object) -> None:
        """Stops: what was learned is in its checkpoint.

        Raises:
            Preempted: after a signal.
        """
        if self._anyone_told(trainer):
            self._stop("in the test: --resume tests again")

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = _handle(self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self.told = self.told or signal.Signals(number)
        if number == signal.SIGINT:
            self._interrupted = True
            if not rank_zero_only.rank:
                say("stopping after this step (Ctrl+C again: at once)")

    def _anyone_told(self, trainer: Trainer) -> bool:
        if world_size() == 1:
            return self.told is not None
        told = torch.tensor(int(self.told or 0), device=trainer.strategy.root_device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        if number := int(told):
            self.told = signal.Signals(number)
        return bool(number)  # and not what this process alone has heard meanwhile

    def _stop(self, where: str) -> None:
        assert self.told is not None
        raise Preempted(f"{self.told.name}: stopped {where}")
