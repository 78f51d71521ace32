"""Base of the methods that see every training image once and keep a summary of them."""

import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn

from lightning_ad.data.sample import Batch
from lightning_ad.errors import UsageError, UserError
from lightning_ad.methods.base import AnomalyModule, NotFittedError
from lightning_ad.statistics.distributed import gather_rows


class FitOnlyModule(AnomalyModule):
    """A method without a loss: `observe` takes the batches of one epoch, `complete` builds the summary.

    The summary does not depend on batch size, order, workers or processes. A second fit forgets the first. A
    checkpoint holds a complete summary, or `fitted` is false in it.
    """

    precisions = ("32-true", "bf16-mixed")
    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.tensor(False))
        # Lightning's loop wants a loss, and DistributedDataParallel a parameter with a gradient.
        self.anchor = nn.Parameter(torch.zeros(()))
        self._seen = 0

    def begin(self) -> None:
        """Forgets what an earlier fit has observed, and makes room; the trainer and its data are there."""
        raise NotImplementedError

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Takes [B, 3, H, W] good images in [0, 1], the rows `index` [B] of the training set; each row comes once."""
        raise NotImplementedError

    def complete(self) -> None:
        """Builds the summary from what the processes have observed; ends with the same on all of them."""
        raise NotImplementedError

    def require_fitted(self) -> None:
        """Raises NotFittedError before a fit."""
        if not self.fitted:
            name = type(self).__name__
            raise NotFittedError(
                f"this {name} has not been fitted; run train.py, or load the checkpoint of a fitted one"
            )

    def configure_optimizers(self) -> None:
        """There is nothing to optimise."""
        return

    def on_fit_start(self) -> None:
        """Refuses a trainer that would read the images not once.

        Raises:
            UsageError: for other `max_epochs`, for `max_steps`, or for accumulated gradients.
        """
        name, trainer = type(self).__name__, self.trainer
        wishes = {
            "max_epochs": (trainer.max_epochs, 1),
            "max_steps": (trainer.max_steps, -1),
            "accumulate_grad_batches": (trainer.accumulate_grad_batches, 1),
        }
        for wish, (came, wanted) in wishes.items():
            if came != wanted:
                raise UsageError(
                    f"{name} reads the training images once and has no optimizer: trainer.{wish} must be {wanted}, "
                    f"{came} came"
                )
        if any(isinstance(c, WeightAveraging | StochasticWeightAveraging) for c in trainer.callbacks):
            raise UsageError(f"{name} has no weights to average; leave out the averaging callback")

    def on_train_start(self) -> None:
        """Starts an empty summary (not called where a finished run is resumed).

        Raises:
            UserError: on going on from a checkpoint that was written in the middle of a fit.
        """
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.completed:
            raise UserError(
                f"the checkpoint was written in the middle of a fit of {type(self).__name__}, and what it had "
                "observed is not in it; start again without it"
            )
        super().on_train_start()
        self.fitted.fill_(False)
        self._seen = 0
        self.begin()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Observes a batch; the loss is a zero that has a gradient."""
        batch = batch.real()
        if len(batch):
            self._seen += len(batch)
            with torch.no_grad():
                self.observe(batch.image, batch.index)
        return self.anchor * 0

    def on_validation_start(self) -> None:
        """Validation runs inside the epoch, before its end: the summary must be there."""
        self._complete_once()

    def on_train_epoch_end(self) -> None:
        """Builds the summary where no validation came first."""
        self._complete_once()

    def _complete_once(self) -> None:
        if self.fitted or self.trainer.sanity_checking:
            return
        seen = int(gather_rows(torch.tensor([self._seen], device=self.device)).sum())
        wanted = len(self.trainer.train_dataloader.dataset)
        if seen != wanted:
            raise UserError(
                f"the epoch ended after {seen} of {wanted} training images, and a {type(self).__name__} of a part of "
                "them would look like one of all; leave out trainer.max_time, limit_train_batches and early stopping"
            )
        with torch.no_grad():
            self.complete()
        self.fitted.fill_(True)
