"""What a run of a learned method can be given by `--trainer.callbacks`, and the speedometer that it always has."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging

from lightning_ad.data.sample import Batch
from lightning_ad.errors import UsageError

__all__ = ["EMAWeightAveraging", "LastEpochsAveraging", "ThroughputMonitor"]


class LastEpochsAveraging(WeightAveraging):
    """The equally weighted mean of the weights at the ends of the last epochs (Izmailov et al., UAI 2018).

    Validation, the test and `last.ckpt` see the mean; before the first of those epochs, the current weights. The
    statistics of batch norm are averaged too.

    Args:
        epochs: how many of the last epochs count.

    Raises:
        UsageError: for fewer than one, or more than the run has.
    """

    def __init__(self, epochs: int = 5) -> None:
        super().__init__()
        if epochs < 1:
            raise UsageError(f"LastEpochsAveraging.epochs must be at least 1, {epochs} came")
        self.epochs = epochs
        self._averaged_epoch = -1

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Never by itself: `_take` does."""
        return False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that there are that many epochs."""
        if not trainer.max_epochs or not self.epochs <= trainer.max_epochs:
            raise UsageError(
                f"LastEpochsAveraging.epochs is {self.epochs}, trainer.max_epochs {trainer.max_epochs}: lower it"
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes in the epoch that is being validated, then hands over the mean."""
        if not trainer.sanity_checking:
            self._take(trainer, pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes in the epoch, where no validation did."""
        self._take(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The epoch that was taken in last."""
        return {**super().state_dict(), "averaged_epoch": self._averaged_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        super().load_state_dict(state_dict)
        self._averaged_epoch = state_dict["averaged_epoch"]

    def _take(self, trainer: Trainer, pl_module: LightningModule) -> None:
        average, epoch = self._average_model, trainer.current_epoch
        if average is None or epoch == self._averaged_epoch or (not trainer.training and not trainer.validating):
            return
        if epoch <= (trainer.max_epochs or 0) - self.epochs:
            average.n_averaged.fill_(0)  # the next update copies
        average.update_parameters(pl_module)
        self._averaged_epoch = epoch


class ThroughputMonitor(Callback):
    """Logs, for each training epoch, `images_per_second` of this process and `wait_share`.

    `wait_share` is the part of the epoch's time, [0, 1], between the end of one step and the start of the next:
    the time in which training waits for the loader.
    """

    def __init__(self) -> None:
        self._mark = self._start = self._waited = 0.0
        self._images = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clocks."""
        self._mark = self._start = time.perf_counter()
        self._waited, self._images = 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """The batch is there."""
        self._waited += time.perf_counter() - self._mark

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """The step is done; the next batch is awaited."""
        self._images += len(batch)
        self._mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs both."""
        seconds = max(self._mark - self._start, 1e-9)
        values = {"images_per_second": self._images / seconds, "wait_share": self._waited / seconds}
        pl_module.log_dict(values, rank_zero_only=True)
