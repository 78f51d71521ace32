"""Images per second and memory, logged and shown beside the progress bar."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from lightning_ad.data.sample import Batch
from lightning_ad.system.cost import peak_memory_gib


class ThroughputMonitor(Callback):
    """Logs, for each training epoch, `images_per_second` of this process, `wait_share` and its peak of memory so far.

    The peaks are `peak_memory_gib_host` and, where there is one, `peak_memory_gib_gpu`. `wait_share` is the part of the
    epoch's time, [0, 1], between the end of one step and the start of the next: in which training waits for the loader.
    """

    def __init__(self) -> None:
        self._mark = self._start = self._waited = self._paused = 0.0
        self._images = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clocks: an epoch in which a resumed run goes on has no start."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clocks."""
        self._mark = self._start = time.perf_counter()
        self._waited, self._images = 0.0, 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """The batch is there."""
        self._waited += time.perf_counter() - self._mark

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """The step is done; the next batch is awaited."""
        self._images += len(batch)
        self._mark = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation within the epoch is no part of its time."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clocks go on."""
        pause = time.perf_counter() - self._paused
        self._mark, self._start = self._mark + pause, self._start + pause

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs them."""
        seconds = max(self._mark - self._start, 1e-9)
        values = {"images_per_second": self._images / seconds, "wait_share": self._waited / seconds}
        peaks = {f"peak_memory_gib_{name}": held for name, held in peak_memory_gib().items()}
        pl_module.log_dict({**values, **peaks}, rank_zero_only=True)


class RunProgressBar(TQDMProgressBar):
    """That of a run; without the version of its first logger, which says nothing of the run's."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands beside the bar."""
        return {
            name: value
            for name, value in super().get_metrics(trainer, pl_module).items()
            if name != "v_num"
        }
