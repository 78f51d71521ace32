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
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_ad.data.sample import Batch
from lightning_ad.errors import DivergedError, UsageError
from lightning_ad.evaluation.thresholds import Calibration
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.finite import naming_images
from lightning_ad.system.distributed import gather_rows, process_rank, world_size

SKIPPED = 20  # steps in a row that a gradient scaler may leave out: from 2**16 it is then below 1


class LearnedModule(AnomalyModule):
    """A method writes `forward`, `losses`, `default_optimizer` and perhaps `default_scheduler`.

    Args:
        optimizer: replaces the method's own, with its own learning rate for all parameters.
        lr_scheduler: replaces the method's own, and is stepped after each epoch.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self._make_optimizer = optimizer
        self._make_scheduler = lr_scheduler
        self._validation_losses: list[Tensor] = []
        self._paths: list[str] = []  # of the images whose gradients are being accumulated
        self._stepped: list[str] = []  # of the images of the last step
        self._skipped = 0

    @property
    def has_own_optimizer(self) -> bool:
        """Returns whether an optimizer or a schedule was given in place of the released one."""
        return self._make_optimizer is not None or self._make_scheduler is not None

    @property
    def loss_names(self) -> Sequence[str] | None:
        """The names in `losses`, which callbacks may wait for; None if they are not told."""
        return None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the parts of the loss, scalars by name; their sum is minimised."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns what the optimizer trains: by default, all parameters that want a gradient."""
        return [{"params": self._trained_parameters()}]

    def default_optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Returns the method's own optimizer of `parameter_groups`."""
        raise NotImplementedError

    def default_scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """Returns the method's own schedule; None for a constant learning rate."""
        return None

    def configure_optimizers(self) -> Any:
        """Returns the method's own optimizer and schedule, or those of the configuration."""
        optimizer = self._optimizer()
        if self._make_scheduler is None:
            scheduler = self.default_scheduler(optimizer)
        else:
            scheduler = self._make_scheduler(optimizer)
        if scheduler is None:
            return {"optimizer": optimizer}
        chosen: dict[str, Any] = {"scheduler": scheduler}
        if isinstance(scheduler, ReduceLROnPlateau):
            # Lightning would step it after the epoch's checkpoint was written, and a resumed run
            # would miss that.
            chosen |= {"monitor": scheduler.monitor, "frequency": sys.maxsize}
        return {"optimizer": optimizer, "lr_scheduler": chosen}

    def _optimizer(self) -> Optimizer:
        groups = self.parameter_groups()
        if self._make_optimizer is None:
            return self.default_optimizer(groups)
        rank_zero_info("model.optimizer replaces the method's own optimizer and its learning rates")
        own = []
        for group in groups:
            own.append({key: value for key, value in group.items() if key != "lr"})
        return self._make_optimizer(own)

    def on_train_start(self) -> None:
        """Says if the last step of each epoch has fewer batches than the others."""
        super().on_train_start()
        batches = self.trainer.num_training_batches
        together = self.trainer.accumulate_grad_batches
        if math.isfinite(batches) and batches % together:
            rank_zero_warn(
                f"the last step of each epoch is made of {batches % together} batches, and its "
                f"gradient is divided by trainer.accumulate_grad_batches ({together}) all the same"
            )

    def on_train_epoch_start(self) -> None:
        """Seeds what a network draws (dropout) by the epoch: a resumed run draws the same.

        Drops the calibration of the epoch before, which was made with other weights.
        """
        seed = [_seed_of_the_run(), self.current_epoch, process_rank()]
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        self.calibration = Calibration.empty()
        self._paths = []
        self.trained_images = len(self.training_set) // self.tiles_per_image

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the sum of the losses, and logs each of them.

        Rows that only fill up the batch of a process have no part in it.

        Raises:
            UserError: if it is not finite, on all processes.
            UsageError: for a single image, if the network normalises over a batch.
        """
        real = batch.without_padding()
        self._paths = [*self._paths, *real.path]
        share = self._share(len(real))
        batch = real if len(real) else batch
        parts = self._weighted_losses(batch, share)
        loss = torch.stack([*parts.values()]).sum()
        if not self._is_finite(loss):
            self._stop("loss", loss.detach(), batch.path)
        shown = {name: value.detach() for name, value in parts.items()}
        shown["loss"] = loss.detach()
        self.log_dict(shown, prog_bar=True, batch_size=len(batch), sync_dist=world_size() > 1)
        return loss

    def _share(self, images: int) -> float:
        """Returns the weight of this process's mean over its images.

        Gradients are averaged over processes; what is wanted is the mean over images.
        """
        if world_size() == 1:
            return 1.0
        count = torch.tensor(images, device=self.device)
        dist.all_reduce(count)
        return images * world_size() / int(count)

    def _weighted_losses(self, batch: Batch, share: float) -> dict[str, Tensor]:
        try:
            with naming_images(batch.path):
                parts = self.losses(batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                f"the network normalises over a batch, and this one is of {len(batch)} image: "
                "choose a data.batch_size that leaves more of them for the last batch"
            ) from error
        if share == 1:
            return parts
        return {name: value * share for name, value in parts.items()}

    def _is_finite(self, loss: Tensor) -> bool:
        """Returns whether the loss is finite on all processes."""
        finite = loss.detach().isfinite()
        if world_size() > 1:
            finite = finite.int()
            dist.all_reduce(finite, dist.ReduceOp.MIN)
        return bool(finite)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the L2 norm of all gradients, before they are clipped.

        Raises:
            UserError: if it is not finite; with 16-mixed, whose scaler leaves such steps out, if it
                was not for `SKIPPED` steps in a row.
        """
        norm = get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        self._skipped = 0 if bool(norm.isfinite()) else self._skipped + 1
        allowed = SKIPPED if self.trainer.precision.startswith("16") else 1
        if self._skipped >= allowed:
            self._stop("gradient norm", norm, self._paths)
        self._stepped = self._paths
        self._paths = []
        self.log("gradient_norm", norm)

    def on_validation_start(self) -> None:
        """Looks at the weights before the best ones are saved.

        Raises:
            UserError: if one of them is not finite.
        """
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._check_weights()

    def on_train_epoch_end(self) -> None:
        """Looks at the weights before the last ones are saved; steps a plateau's schedule.

        Raises:
            UserError: if a weight is not finite.
            UsageError: if the schedule waits for a metric that is not there.
        """
        self._check_weights()
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                config.scheduler.step(self._monitored(str(config.monitor)))  # type: ignore[arg-type]

    def _monitored(self, name: str) -> Tensor:
        metrics = self.trainer.callback_metrics
        if name not in metrics:
            raise UsageError(
                f"model.lr_scheduler.monitor is {name}, which is not there after epoch "
                f"{self.current_epoch}; there are {', '.join(metrics)}"
            )
        return metrics[name]

    def _trained_parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _check_weights(self) -> None:
        norm = get_total_norm([parameter.detach() for parameter in self._trained_parameters()])
        if not bool(norm.isfinite()):
            self._stop("norm of the weights", norm, self._stepped)

    def on_train_end(self) -> None:
        """Warns if a validation set has calibrated nothing."""
        trainer: Any = self.trainer
        if trainer.fast_dev_run or len(self.calibration):
            return
        if trainer.val_dataloaders:
            rank_zero_warn(
                "the last epoch was not validated, so there are no p-values; set "
                "trainer.check_val_every_n_epoch to a divisor of trainer.max_epochs"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores held-out images as every method does, and takes the loss of the good ones."""
        super().validation_step(batch, batch_idx)
        good = batch.select((batch.index >= 0) & (batch.label == 0))
        if len(good) and not self.trainer.sanity_checking:
            loss = torch.stack([*self.losses(good).values()]).sum()
            count = loss.new_tensor(len(good))
            self._validation_losses.append(torch.stack((loss * len(good), count)).float())

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
        """Raises DivergedError on all processes, and names the images of those that diverged."""
        found = [(float(value), [*paths])]
        if world_size() > 1:
            gathered: list[Any] = [None] * world_size()
            dist.all_gather_object(gathered, found[0])
            found = gathered
        bad = [
            f"{value} on {', '.join(paths)}" for value, paths in found if not math.isfinite(value)
        ]
        good = self._last_checkpoint()
        if good is None:
            there = "no checkpoint has been written yet"
        else:
            there = f"the last good checkpoint is {good}"
        raise DivergedError(
            f"the {what} is {'; '.join(bad)} (epoch {self.current_epoch}, step "
            f"{self.global_step}); {there}. Begin a new run with {self._remedies()}"
        )

    def _remedies(self) -> str:
        """Returns what may help against a loss that is not finite, and was not done yet."""
        remedies = ["a lower learning rate"]
        if not self.trainer.gradient_clip_val:
            remedies.append("clipped gradients (trainer.gradient_clip_val)")
        if self.trainer.precision.startswith("16"):
            remedies.append("another trainer.precision than 16-mixed")
        return ", or ".join(remedies)

    def _last_checkpoint(self) -> str | None:
        """Returns the newest checkpoint of this run that is still there."""
        files = []
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                path = callback.best_model_path
                if path and Path(path).is_file():
                    files.append(path)
        return max(files, key=os.path.getmtime, default=None)


def _seed_of_the_run() -> int:
    seed = os.environ.get("PL_GLOBAL_SEED", "0")
    if not seed.isdecimal():
        raise UsageError(f"PL_GLOBAL_SEED in the environment: expected a number, got {seed!r}")
    return int(seed)
