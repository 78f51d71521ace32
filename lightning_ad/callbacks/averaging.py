"""Averages of the weights, which a run of a learned method can be given by --trainer.callbacks."""

from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_ad.errors import UsageError


class _AveragingOnDevice(WeightAveraging):
    """An average on the model's device: Lightning makes it before the model moves there."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the average to the model."""
        if self._average_model is not None and self._device is None:
            self._average_model.to(pl_module.device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copies buffers whose shape was not known before the first step (CFA's bank)."""
        assert self._average_model is not None
        average = self._average_model.module
        made = {}
        for name, buffer in pl_module.named_buffers():
            if average.get_buffer(name).shape != buffer.shape:
                made[name] = buffer
        average.load_state_dict(made, strict=False)


class StepsAveraging(_AveragingOnDevice):
    """The exponential moving average of the weights of all steps.

    Validation, the test and the checkpoints see the average. The statistics of batch norm are
    averaged too; weights that do not move keep their bits.

    Args:
        decay: what stays of the average at each step, at least 0 and below 1.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(avg_fn=partial(_moving_mean, decay))
        if not 0 <= decay < 1:
            raise UsageError(f"StepsAveraging.decay must be at least 0 and below 1, got {decay}")

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Returns True after each step."""
        return step_idx is not None


class LastEpochsAveraging(_AveragingOnDevice):
    """The mean of the weights at the ends of the last epochs (Izmailov et al., UAI 2018).

    Validation, the test and `last.ckpt` see the mean; before the first of those epochs, the current
    weights. The statistics of batch norm are averaged too.

    Args:
        epochs: how many of the last epochs count.

    Raises:
        UsageError: for fewer than one, or more than the run has.
    """

    def __init__(self, epochs: int = 5) -> None:
        super().__init__(avg_fn=_running_mean)
        if epochs < 1:
            raise UsageError(f"LastEpochsAveraging.epochs must be at least 1, got {epochs}")
        self.epochs = epochs
        self._averaged_epoch = -1

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Returns False: `_take_epoch` updates the average."""
        return False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that there are that many epochs."""
        super().on_fit_start(trainer, pl_module)
        if not trainer.max_epochs or self.epochs > trainer.max_epochs:
            raise UsageError(
                "LastEpochsAveraging.epochs must be at most trainer.max_epochs "
                f"({trainer.max_epochs}), got {self.epochs}"
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the epoch that is being validated, then lets the model have the mean."""
        at_the_end = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if at_the_end and not trainer.sanity_checking:
            self._take_epoch(trainer, pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the epoch, unless a validation did."""
        self._take_epoch(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the mean to the model; warns if fewer epochs are in it than were asked for."""
        super().on_train_end(trainer, pl_module)
        taken = 0
        if self._average_model is not None:
            taken = int(self._average_model.n_averaged)
        if taken < self.epochs:
            rank_zero_warn(
                f"training ended early: {taken} instead of {self.epochs} epochs are in the average"
            )

    def state_dict(self) -> dict[str, Any]:
        """Adds the epoch that was taken last."""
        return {**super().state_dict(), "averaged_epoch": self._averaged_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues after that epoch."""
        super().load_state_dict(state_dict)
        self._averaged_epoch = state_dict["averaged_epoch"]

    def _take_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        average = self._average_model
        epoch = trainer.current_epoch
        if average is None or epoch == self._averaged_epoch:
            return
        if epoch <= (trainer.max_epochs or 0) - self.epochs:
            average.n_averaged.fill_(0)  # the next update copies
        average.update_parameters(pl_module)
        self._averaged_epoch = epoch


def _moving_mean(decay: float, average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    if not current.is_floating_point():
        return current
    return average + (current - average) * (1 - decay)


def _running_mean(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    return average + (current - average) / (count + 1)
