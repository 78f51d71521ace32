import os
import signal

from lightning.pytorch import Callback


class KillAt(Callback):
    """Ends the process with SIGKILL after a training step, or a batch of the test, as a power cut would."""

    def __init__(self, step: int = -1, test_batch: int = -1) -> None:
        self.step, self.test_batch = step, test_batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == self.test_batch:
            os.kill(os.getpid(), signal.SIGKILL)
