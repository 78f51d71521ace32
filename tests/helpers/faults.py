"""Callbacks that put faults into a run: `PlantFault`, `SpoilImages` and `KillAt`."""

import os
import shutil
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only


class PlantFault(Callback):
    """Causes a fault after a training step.

    Args:
        fault: `full_disk`: the next checkpoint is written to a device without room. `no_data`:
            `folder` is moved away. `dead_worker`: a process that reads images is killed. `memory`,
            `gpu`: asks for more memory than there is. `dead`: the process of `rank` is killed.
            `error`: the process of `rank` raises an error.
        step: training step, from 1.
        folder: of `no_data`.
        rank: of `dead` and `error`.
    """

    def __init__(self, fault: str, step: int = 1, folder: str = "", rank: int = 0) -> None:
        self.fault = fault
        self.step = step
        self.folder = folder
        self.rank = rank

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx + 1 + trainer.current_epoch * trainer.num_training_batches == self.step:
            getattr(self, self.fault)(trainer)

    def full_disk(self, trainer):
        part = Path(trainer.default_root_dir) / f"checkpoints/.last.ckpt.{os.getpid()}.part"
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


class SpoilImages(Callback):
    """Makes the images of one training step of the process of `rank` NaN."""

    def __init__(self, step: int, rank: int) -> None:
        self.step = step
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            batch.image.fill_(float("nan"))


class KillAt(Callback):
    """Sends the process of `rank` a signal at one of several moments.

    Args:
        step: training step after which to send it.
        test_batch: batch of the test after which to send it.
        name: of the signal; SIGKILL is like a power cut.
        first: whether to send it after the first batch of training too, whatever the step.
        rank: process that sends it in training.
        job: whether all processes of the group get it, workers among them.
        batch: batch of an epoch of training after which to send it, for fit-only methods, which
            make no steps.
        again: whether to send it twice.
        hook: of the trainer at which to send it.
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
        hook: str = "",
    ) -> None:
        self.step = step
        self.test_batch = test_batch
        self.number = signal.Signals[name]
        self.first = first
        self.rank = rank
        self.job = job
        self.batch = batch
        self.again = again
        if hook:
            setattr(self, hook, lambda *_: self.send())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        now = trainer.global_step == self.step or batch_idx == self.batch
        if self.first and batch_idx == 0:
            now = True
        if now and rank_zero_only.rank == self.rank:
            self.send()

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == self.test_batch:
            self.send()

    def send(self):
        if self.job:
            os.killpg(os.getpgid(0), self.number)
            return
        os.kill(os.getpid(), self.number)
        if self.again:
            os.kill(os.getpid(), self.number)
