"""Base of the methods with a loss and an optimizer."""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_ad.data.sample import Batch
from lightning_ad.errors import DivergedError, UsageError
from lightning_ad.evaluation.thresholds import Calibration
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.system.distributed import gather_rows, process_rank, world_size

SKIPPED = 20  # steps in a row that a gradient scaler may leave out: it then starts from 2**16 and is below 1


class LearnedModule(AnomalyModule):
    """A method writes `losses`, `default_optimizer` and, where it has one, `default_scheduler`.

    Args:
        optimizer: another one than the method's own, with its own learning rate for all parameters.
        lr_scheduler: another one than the method's own, stepped after each epoch.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self._make_optimizer, self._make_scheduler = optimizer, lr_scheduler
        self._validation_losses: list[Tensor] = []
        self._paths: list[str] = []  # of the gradients that are being accumulated
        self._stepped: list[str] = []  # of the last step
        self._skipped = 0

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, scalars by name; their sum is minimised."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer trains."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def default_optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The method's own."""
        raise NotImplementedError

    def default_scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """The method's own; None for a constant learning rate."""
        return None

    def configure_optimizers(self) -> dict[str, Any]:
        """The method's own optimizer and schedule, or those of the configuration."""
        groups = self.parameter_groups()
        if self._make_optimizer is None:
            optimizer = self.default_optimizer(groups)
        else:
            rank_zero_info(
                "model.optimizer replaces the method's own optimizer and its learning rates"
            )
            optimizer = self._make_optimizer(
                [{k: v for k, v in g.items() if k != "lr"} for g in groups]
            )
        if self._make_scheduler is not None:
            scheduler = self._make_scheduler(optimizer)
        else:
            scheduler = self.default_scheduler(optimizer)
        if scheduler is None:
            return {"optimizer": optimizer}
        chosen: dict[str, Any] = {"scheduler": scheduler}
        if isinstance(scheduler, ReduceLROnPlateau):
            # Lightning would step it after the epoch's checkpoint was written, and a resumed run would miss that.
            chosen |= {"monitor": scheduler.monitor, "frequency": sys.maxsize}
        return {"optimizer": optimizer, "lr_scheduler": chosen}

    def on_train_epoch_start(self) -> None:
        """Seeds what a network draws (dropout) by the epoch, so that a resumed run draws the same.

        The calibration of the epoch before is dropped: the weights will not be those that it was made with.
        """
        seed = [int(os.environ.get("PL_GLOBAL_SEED", 0)), self.current_epoch, process_rank()]
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        self.calibration = Calibration.empty()
        self._paths = []
        self.trained_images = len(self.trainer.train_dataloader.dataset) // self.tiles_per_image

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the parts, each logged. Rows that only fill up the batch of a process have no part in it.

        Raises:
            UserError: where it is not finite, on all processes.
            UsageError: for a single image, where the network normalises over a batch.
        """
        real, share = batch.without_padding(), 1.0
        self._paths = [*self._paths, *real.path]
        if (
            world_size() > 1
        ):  # gradients are averaged over processes; what is wanted is the mean over images
            count = torch.tensor(len(real), device=self.device)
            dist.all_reduce(count)
            share = len(real) * world_size() / int(count)
        batch = real if len(real) else batch
        try:
            parts = {
                name: value * share if share != 1 else value
                for name, value in self.losses(batch).items()
            }
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                f"the network normalises over a batch, and this one is of {len(batch)} image: choose a data.batch_size "
                "that leaves more of them for the last batch"
            ) from error
        loss = torch.stack([*parts.values()]).sum()
        finite = loss.detach().isfinite()
        if world_size() > 1:
            finite = finite.int()
            dist.all_reduce(finite, dist.ReduceOp.MIN)
        if not bool(finite):
            self._stop("loss", loss.detach(), batch.path)
        shown = {**{name: value.detach() for name, value in parts.items()}, "loss": loss.detach()}
        self.log_dict(shown, prog_bar=True, batch_size=len(batch), sync_dist=world_size() > 1)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the L2 norm of all gradients, before they are clipped.

        Raises:
            UserError: where it is not finite; under 16-mixed, whose scaler leaves such steps out, where it has been
                so for `SKIPPED` steps in a row.
        """
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters() if p.grad is not None]
        )
        self._skipped = 0 if bool(norm.isfinite()) else self._skipped + 1
        if self._skipped >= (SKIPPED if self.trainer.precision.startswith("16") else 1):
            self._stop("gradient norm", norm, self._paths)
        self._stepped, self._paths = self._paths, []
        self.log("gradient_norm", norm)

    def on_validation_start(self) -> None:
        """Looks at the weights before the best ones are saved.

        Raises:
            UserError: where one of them is not finite.
        """
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._check_weights()

    def on_train_epoch_end(self) -> None:
        """Looks at the weights before the last ones are saved, and steps a schedule that waits for a plateau.

        Raises:
            UserError: where one of them is not finite.
            UsageError: where the schedule waits for a metric that is not there.
        """
        self._check_weights()
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                if (value := self.trainer.callback_metrics.get(config.monitor)) is None:
                    raise UsageError(
                        f"model.lr_scheduler.monitor is {config.monitor}, which is not there after epoch "
                        f"{self.current_epoch}; there are {', '.join(self.trainer.callback_metrics)}"
                    )
                config.scheduler.step(value)

    def _check_weights(self) -> None:
        norm = torch.nn.utils.get_total_norm(
            [p.detach() for p in self.parameters() if p.requires_grad]
        )
        if not bool(norm.isfinite()):
            self._stop("norm of the weights", norm, self._stepped)

    def on_train_end(self) -> None:
        """Says where a validation set has calibrated nothing."""
        if (
            self.trainer.val_dataloaders
            and not len(self.calibration)
            and not self.trainer.fast_dev_run
        ):
            rank_zero_warn(
                "the last epoch was not validated, so there are no p-values; set trainer.check_val_every_n_epoch to a "
                "divisor of trainer.max_epochs"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores held-out images as every method does, and takes the loss of the good ones."""
        super().validation_step(batch, batch_idx)
        good = batch.select((batch.index >= 0) & (batch.label == 0))
        if len(good) and not self.trainer.sanity_checking:
            loss = torch.stack([*self.losses(good).values()]).sum()
            self._validation_losses.append(
                torch.stack((loss * len(good), loss.new_tensor(len(good)))).float()
            )

    def on_validation_epoch_end(self) -> None:
        """Logs `validation_loss`, the mean over the held-out good images of all processes."""
        super().on_validation_epoch_end()
        if self.trainer.sanity_checking:
            return
        empty = torch.empty(0, 2, device=self.device)
        rows = gather_rows(torch.cat([empty, *(row[None] for row in self._validation_losses)]))
        self._validation_losses.clear()
        if len(rows):
            total, count = rows.sum(0)
            self.log("validation_loss", total / count, prog_bar=True, rank_zero_only=True)

    def _stop(self, what: str, value: Tensor, paths: Sequence[str]) -> NoReturn:
        found = [(float(value), [*paths])]
        if world_size() > 1:
            gathered: list[Any] = [None] * world_size()
            dist.all_gather_object(gathered, found[0])
            found = gathered
        bad = "; ".join(
            f"{value} on {', '.join(paths)}" for value, paths in found if not math.isfinite(value)
        )
        files = [
            c.best_model_path
            for c in self.trainer.checkpoint_callbacks
            if isinstance(c, ModelCheckpoint)
        ]
        good = max(
            (f for f in files if f and Path(f).is_file()), key=os.path.getmtime, default=None
        )
        raise DivergedError(
            f"the {what} is {bad} (epoch {self.current_epoch}, step {self.global_step}); "
            + (
                f"the last good checkpoint is {good}. "
                if good
                else "no checkpoint has been written yet. "
            )
            + "Begin a new run with a lower learning rate, with clipped gradients (trainer.gradient_clip_val), or "
            "without 16-mixed"
        )
