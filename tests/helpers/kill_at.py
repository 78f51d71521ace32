import os
import signal

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only


class KillAt(Callback):
    """Sends the process a signal after a training step, or a batch of the test; SIGKILL is as a power cut.

    `batch` is one of an epoch of training, for fit-only methods, which make no steps. With `first`, also after the
    first batch of training, whatever the step; with `job`, to all processes of the group, workers among them;
    with `again`, twice.
    """

    def __init__(
        self,
        step: int = -1,
        test_batch: int = -1,
        name: str = "SIGKILL",
        first: bool = False,
        rank: int = 0,
        job: bool = False,
        batch: int = -1,
        again: bool = False,
    ) -> None:
        self.batch, self.again = batch, again
        self.step, self.test_batch, self.number, self.first = (
            step,
            test_batch,
            signal.Signals[name],
            first,
        )
        self.rank, self.job = rank, job

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        now = (
            trainer.global_step == self.step
            or (self.first and not batch_idx)
            or batch_idx == self.batch
        )
        if now and rank_zero_only.rank == self.rank:
            self.send()

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == self.test_batch:
            self.send()

    def send(self):
        if self.job:
            os.killpg(os.getpgid(0), self.number)
        else:
            for _ in range(1 + self.again):
                os.kill(os.getpid(), self.number)
