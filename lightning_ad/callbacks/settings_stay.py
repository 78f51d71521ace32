"""Watches that the training is the one that the configuration of its run says."""

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_ad.data.sample import Batch
from lightning_ad.errors import UsageError
from lightning_ad.methods.base import AnomalyModule


class SettingsStay(Callback):
    """Ends a run in which another callback changes the batch size or the batches of a step.

    `config.yaml`, the checkpoint and the results would tell of settings that were not used.

    Args:
        accumulate: batches of a step, as the configuration says.
    """

    def __init__(self, accumulate: int) -> None:
        self.accumulate = accumulate

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: AnomalyModule, batch: Batch, batch_idx: int
    ) -> None:
        """Compares what is used with what was asked for.

        Raises:
            UsageError: if it differs, with both values.
        """
        data = pl_module.data
        if data is not None:
            _check("data.batch_size", data.arguments["batch_size"], data.batch_size)
        if not any(isinstance(one, GradientAccumulationScheduler) for one in trainer.callbacks):
            used = trainer.accumulate_grad_batches
            _check("trainer.accumulate_grad_batches", self.accumulate, used)


def _check(name: str, wanted: int, used: int) -> None:
    if used != wanted:
        raise UsageError(
            f"a callback has changed {name} from {wanted} to {used}, and the run's configuration "
            f"would say {wanted}: give {name} {used} in place of the callback"
        )
