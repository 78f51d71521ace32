"""Base of the methods that see every training image once and keep a summary of them."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lightning_ad.data.sample import Batch
from lightning_ad.errors import NotFittedError, UsageError, UserError
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.finite import naming_images
from lightning_ad.methods.fit_progress import FitProgress, ProgressFiles, ProgressSaver
from lightning_ad.methods.run_settings import RunSettings
from lightning_ad.methods.suspects import leave_out_suspects
from lightning_ad.system.distributed import sum_over_processes


class FitOnlyModule(AnomalyModule):
    """A method without a loss, which sees each training image once and keeps a summary of them.

    A method writes `forward`, `begin`, `observe` and `complete`. With `partial_state` and `restore`
    too, a fit that was stopped goes on from where it was; with `leave_one_out`, suspicious training
    images can be listed and left out; with `can_extend`, images can be added to a finished fit.

    The summary does not depend on batch size, order, workers or processes. A second fit forgets the
    first. A checkpoint holds a complete summary, or `fitted` is false in it.

    Attributes:
        cumulative: `partial_state` gives all that was observed, not a part of it.
        can_extend: `begin` keeps what was fitted before if `extending`.
        extending: the next fit adds its images to what was fitted before.
        fitted: bool, whether there is a summary.
        images: int64, the number of images in it.
        progress: what an unfinished fit keeps on disk; None if nothing is kept.
    """

    precisions = ("32-true", "bf16-mixed")
    one_thread_per_image = True
    cumulative = False
    can_extend = False
    fitted: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("images", torch.tensor(0))
        # Lightning's loop wants a loss, and DistributedDataParallel a parameter with a gradient.
        self.anchor = nn.Parameter(torch.zeros(()))
        self.extending = False
        self.progress: FitProgress | None = None
        self._seen = 0  # images that this process has observed
        self._began = 0.0

    def begin(self) -> None:
        """Makes room for a fit, and forgets the one before it, unless `extending`.

        The trainer and its data are there.
        """
        raise NotImplementedError

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Takes a batch.

        Args:
            image: [B, 3, H, W], good images in [0, 1].
            index: int64 [B], their rows in the training set; each row comes once.
        """
        raise NotImplementedError

    def complete(self) -> None:
        """Builds the summary of what all processes have observed; the same on all of them."""
        raise NotImplementedError

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]:
        """Yields what this process has observed, by pieces.

        Pieces hold plain data, and tensors that are no views of larger ones.

        Args:
            first: number of images that earlier pieces hold; if `cumulative`, a piece holds all.
        """
        raise NotImplementedError

    def restore(self, piece: dict[str, Any]) -> None:
        """Takes a piece of `partial_state`, after `begin` and in order."""
        raise NotImplementedError

    def leave_one_out(self, image: Tensor, index: Tensor, ignore: Tensor | None = None) -> Tensor:
        """Scores training images as if each had not been in the fit; higher is more suspicious.

        By tiles, banks and galleries leave out all tiles of an image; moments (PaDiM, Mahalanobis
        AD) that tile alone.

        Args:
            image: [B, 3, H, W].
            index: int64 [B], their rows in the training set.
            ignore: as in `forward`.

        Returns:
            Scores [B].
        """
        raise NotImplementedError

    def check_run(self, settings: RunSettings, extends: bool = False) -> None:
        """Raises UsageError if the method cannot do what a run asks for."""
        name = type(self).__name__
        if extends and settings.trim > 0:
            raise UsageError("--trim goes with a fit from the start: leave out --extend, or --trim")
        if extends and not self.can_extend:
            raise UsageError(f"--extend: {name} cannot add images to a finished fit")
        if settings.scores_training_images and not self._has("leave_one_out"):
            raise UsageError(f"{name} cannot list suspects: leave out --suspects and --trim")

    def configure_run(self, settings: RunSettings, extend: dict[str, Any] | None = None) -> None:
        """Takes what a run asks for, and the fit that it extends.

        Raises:
            UsageError: if the method cannot do what is asked for.
            WeightsError: if the fit that is extended is of another method.
            NotFittedError: if it is not finished.
        """
        super().configure_run(settings, extend)
        self.extending = extend is not None
        if extend is not None:
            self.load_learned(extend)
            self.require_fitted()

    @property
    def can_resume(self) -> bool:
        """Returns whether an unfinished fit can be saved, and go on."""
        return self._has("partial_state") and self._has("restore")

    @property
    def images_before(self) -> int:
        """Images of the fit that is extended; the image of row i is number `images_before` + i."""
        return int(self.images) if self.extending else 0

    @property
    def batches_kept(self) -> int:
        """Batches of this process that a stopped fit has observed, and that need not be read."""
        return 0 if self.progress is None else self.progress.batches_kept

    @property
    def seconds_before(self) -> float:
        """Seconds that the fit took before it was stopped."""
        return 0.0 if self.progress is None else self.progress.seconds_before

    def save_progress(self) -> bool:
        """Saves what was observed; on all processes at once. Returns whether it is saved."""
        return self.progress is not None and self.progress.save(self)

    def selection_saver(self, series: str) -> ProgressSaver | None:
        """Returns what saves a selection beside what was observed; None if nothing is saved."""
        return None if self.progress is None else self.progress.selection_saver(self, series)

    def require_fitted(self) -> None:
        """Raises NotFittedError before a fit."""
        if not self.fitted:
            raise NotFittedError(
                f"this {type(self).__name__} has not been fitted; run train.py, or load the "
                "checkpoint of a fitted one"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the names of the training images."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["training_paths"] = self.training_paths

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the names of the training images."""
        super().on_load_checkpoint(checkpoint)
        self.training_paths = list(checkpoint["training_paths"])

    def configure_optimizers(self) -> None:
        """Returns None: there is nothing to optimise."""
        return

    def on_fit_start(self) -> None:
        """Finds the progress of an earlier fit.

        Raises:
            UsageError: for a trainer that does not read each image once.
        """
        self._check_trainer()
        self.progress = self._open_progress()

    def _check_trainer(self) -> None:
        name = type(self).__name__
        trainer: Any = self.trainer
        if trainer.fast_dev_run:
            return
        settings = {
            "max_epochs": (trainer.max_epochs, 1),
            "max_steps": (trainer.max_steps, -1),
            "accumulate_grad_batches": (trainer.accumulate_grad_batches, 1),
        }
        for setting, (value, wanted) in settings.items():
            if value != wanted:
                raise UsageError(
                    f"{name} reads the training images once and has no optimizer: "
                    f"trainer.{setting} must be {wanted}, got {value}"
                )
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
                raise UsageError(
                    f"{name} has no weights to average; leave out the averaging callback"
                )

    def _open_progress(self) -> FitProgress | None:
        settings = self.run_settings
        # Only the first process knows the folder of the run, and has looked at the images.
        folder, training_set = self.trainer.strategy.broadcast(
            (settings.progress_folder, settings.training_set)
        )
        if folder is None or self.data is None or not self.can_resume:
            return None
        data = self.data
        identity = [training_set, len(data.samples["train"]), data.batch_size, data.seed]
        files = ProgressFiles(folder, identity)
        return FitProgress(files, settings.progress_minutes, self.device)

    def on_train_start(self) -> None:
        """Starts an empty summary, or goes on with an unfinished one.

        Not called if a finished run is resumed.

        Raises:
            UserError: on going on from a checkpoint that was written in the middle of a fit.
        """
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.completed:
            raise UserError(
                f"the checkpoint was written in the middle of a fit of {type(self).__name__}, and "
                "what it had observed is not in it; start again without it"
            )
        super().on_train_start()
        self.fitted.fill_(False)
        self.suspects = None
        self._seen = 0
        self._began = time.perf_counter()
        self.begin()
        if self.progress is not None:
            self._seen = self.progress.resume(self)
            seen = sum_over_processes(self._seen, self.device)
            if seen:
                rank_zero_info(
                    f"{seen} training images were read before; the fit goes on with the others"
                )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Observes a batch; the loss is a zero that has a gradient."""
        batch = batch.without_padding()
        observed_before = self.progress is not None and self.progress.reads_again
        if len(batch) and not observed_before:
            self._seen += len(batch)
            with torch.no_grad(), naming_images(batch.path):
                self.observe(batch.image, batch.index)
        if self.progress is not None:
            self.progress.count_batch(self, self._seen)
        return self.anchor * 0

    def on_validation_start(self) -> None:
        """Builds the summary: a validation comes before the end of the epoch."""
        self._complete_once()

    def on_train_epoch_end(self) -> None:
        """Builds the summary, unless a validation did."""
        self._complete_once()

    def _complete_once(self) -> None:
        if self.fitted or self.trainer.sanity_checking:
            return
        self._check_that_all_were_seen()
        with torch.no_grad():
            self._summarise()
        self.extending = False
        self.fitted.fill_(True)

    def _check_that_all_were_seen(self) -> None:
        seen = sum_over_processes(self._seen, self.device)
        count = len(self.training_set)
        if seen != count and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError(
                f"the epoch ended after {seen} of {count} training images, and a "
                f"{type(self).__name__} of a part of them would look like one of all; leave out "
                "trainer.max_time, limit_train_batches and early stopping"
            )

    def _summarise(self) -> None:
        data = self.training_set
        read = time.perf_counter()
        self.complete()
        done = time.perf_counter()
        self.seconds_by_stage = {"reading": read - self._began, "summarising": done - read}
        if self.progress is not None:
            # A second fit, without suspicious images, would take this one's progress for its own.
            self.progress.end()
        rows = list(range(len(data)))
        if self.run_settings.scores_training_images:
            paths = [sample.path for sample in data.samples]
            self.suspects, rows = leave_out_suspects(self, paths, self.run_settings.trim)
        before = self.images_before
        names = data.names
        self.training_paths = [*self.training_paths[:before], *(names[row] for row in rows)]
        self.images.fill_(before + len(rows))
        self.trained_images = int(self.images) // self.tiles_per_image

    def _has(self, method: str) -> bool:
        """Returns whether the class writes a method that it need not write."""
        return is_overridden(method, self, FitOnlyModule)
