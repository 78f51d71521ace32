"""Plants faults in runs, as callbacks."""

import os
import shutil
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback


class Plant(Callback):
    """Does something bad after a training step.

    full_disk: what is written as a checkpoint goes to a device without room. no_data: a folder is moved away.
    dead_worker: a process that reads images is killed. memory, gpu: more memory is asked for than there is.
    dead: the process of `rank` is killed; error: it raises one.
    """

    def __init__(self, fault: str, step: int = 1, folder: str = "", rank: int = 0) -> None:
        self.fault, self.step, self.folder, self.rank = fault, step, folder, rank

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx + 1 + trainer.current_epoch * trainer.num_training_batches == self.step:
            getattr(self, self.fault)(trainer)

    def full_disk(self, trainer):
        part = Path(trainer.default_root_dir) / "checkpoints/.last.ckpt.part"
        part.parent.mkdir(exist_ok=True)
        part.symlink_to("/dev/full")

    def no_data(self, trainer):
        shutil.move(self.folder, f"{self.folder}-gone")

    def dead_worker(self, trainer):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        own = Path("/proc/self/cmdline").read_bytes()  # which a forked worker has too
        workers = [pid for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == own]
        os.kill(int(workers[0]), signal.SIGKILL)

    def memory(self, trainer):
        torch.empty(2**52)

    def gpu(self, trainer):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def dead(self, trainer):
        if trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)

    def error(self, trainer):
        if trainer.global_rank == self.rank:
            raise ValueError("something of its own")
