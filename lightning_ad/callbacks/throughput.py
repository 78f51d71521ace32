"""Images per second and memory, logged and shown beside the progress bar."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from lightning_ad.data.sample import Batch
from lightning_ad.system.cost import peak_memory_gib


class ThroughputMonitor(Callback):
    """Logs how fast each training epoch was, and the memory that it took.

    `images_per_second` of this process; `wait_share`, the part of the epoch's time in [0, 1] in
    which training waits for the loader, between the end of one step and the start of the next; and
    the peaks so far, `peak_memory_gib_host` and, on a GPU, `peak_memory_gib_gpu`.
    """

    def __init__(self) -> None:
        self._epoch_start = 0.0
        self._step_end = 0.0
        self._validation_start = 0.0
        self._waited = 0.0
        self._images = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clocks: an epoch that a resumed run continues has no start."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clocks."""
        self._epoch_start = time.perf_counter()
        self._step_end = self._epoch_start
        self._waited = 0.0
        self._images = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Adds the time for which the batch was awaited."""
        self._waited += time.perf_counter() - self._step_end

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Counts the batch; the next one is awaited from now on."""
        self._images += len(batch)
        self._step_end = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clocks: a validation within the epoch is no part of its time."""
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restarts the clocks."""
        pause = time.perf_counter() - self._validation_start
        self._epoch_start += pause
        self._step_end += pause

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch."""
        seconds = max(self._step_end - self._epoch_start, 1e-9)
        values = {"images_per_second": self._images / seconds, "wait_share": self._waited / seconds}
        for name, held in peak_memory_gib().items():
            values[f"peak_memory_gib_{name}"] = held
        pl_module.log_dict(values, rank_zero_only=True)


class RunProgressBar(TQDMProgressBar):
    """A progress bar without the version of the first logger, which is not that of the run."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Returns the numbers beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}
