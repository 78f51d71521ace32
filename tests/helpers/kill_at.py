import os
import signal

from lightning.pytorch import Callback


class KillAt(Callback):
    """Ends the process with SIGKILL after a training step, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
