"""Base of the methods that see every training image once and keep a summary of them."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_ad.data.sample import Batch
from lightning_ad.errors import NotFittedError, UsageError, UserError
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.fit_progress import FitProgress, SelectionKeeper
from lightning_ad.methods.suspects import without_suspects
from lightning_ad.system.distributed import sum_over_processes

SERIES = "images"  # of saves of what was observed
ASKED = 8  # batches between two looks at the clock, which take a word between processes


class FitOnlyModule(AnomalyModule):
    """A method without a loss: `observe` takes the batches of one epoch, `complete` builds the summary.

    The summary does not depend on batch size, order, workers or processes. A second fit forgets the first. A
    checkpoint holds a complete summary, or `fitted` is false in it.

    Attributes:
        images: int64, of which the summary is.
        cumulative: what `kept` gives is all that was observed, not a part of it.
        growing: what was fitted before stays, and the images that are observed are added to it.
        list_suspects: score the training images after the fit, as though each had not been in it.
        trim: the share of the training images that is left out, the most suspicious ones; they are then listed too.
        took: seconds of the last fit by stage: `reading` the images, and `summarising` them.
        progress_folder: where a fit keeps what it has done, and goes on from; None for nowhere.
        progress_minutes: between two times that it does.
        progress_of: the fingerprint of the training set; what was kept of another one is refused.
        seconds_before: that the fit had taken before it was gone on with.
        told: whether any process was told to stop; all of them ask.
        stop: ends the fit, once what it has done is kept.
        batches_kept: of this process that an earlier fit has observed, and this one need not read.
    """

    precisions = ("32-true", "bf16-mixed")
    one_thread_per_image = True
    cumulative = False
    fitted: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("images", torch.tensor(0))
        self.growing = False
        self.list_suspects, self.trim = False, 0.0
        self.took: dict[str, float] = {}
        # Lightning's loop wants a loss, and DistributedDataParallel a parameter with a gradient.
        self.anchor = nn.Parameter(torch.zeros(()))
        self._seen, self._began = 0, 0.0
        self.progress_folder: Path | None = None
        self.progress_minutes = 10.0
        self.progress_of: str | None = None
        self.batches_kept, self.seconds_before = 0, 0.0
        self.told: Callable[[], bool] = bool
        self.stop: Callable[[str], object] = str
        self._progress: FitProgress | None = None
        self._batches, self._again, self._written = 0, 0, 0

    def begin(self) -> None:
        """Makes room, and forgets what was fitted before unless `growing`; the trainer and its data are there."""
        raise NotImplementedError

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Takes [B, 3, H, W] good images in [0, 1], the rows `index` [B] of the training set; each row comes once."""
        raise NotImplementedError

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]:
        """What this process has observed of its rows from the `first` on, or all that it keeps (`cumulative`), by
        pieces of plain data and tensors that are no views of larger ones."""
        raise NotImplementedError

    def restore(self, piece: dict[str, Any]) -> None:
        """Takes a piece that `kept` has given, after `begin` and in order."""
        raise NotImplementedError

    def complete(self) -> None:
        """Builds the summary from what the processes have observed; ends with the same on all of them."""
        raise NotImplementedError

    def leave_one_out(self, image: Tensor, index: Tensor, ignore: Tensor | None = None) -> Tensor:
        """Scores [B] of the training images `index` as though each had not been in the fit; higher is suspicious.

        By tiles, banks and galleries leave out all tiles of an image; moments (PaDiM, Mahalanobis AD) that tile alone.

        `ignore` as in `forward`.
        """
        raise NotImplementedError

    @property
    def images_before(self) -> int:
        """Images in the summary that is growing: the training image of row i is counted as `images_before` + i."""
        return int(self.images) if self.growing else 0

    def grow_from(self, checkpoint: dict[str, Any]) -> None:
        """Takes a finished summary, to which the next fit adds its images.

        Raises:
            WeightsError: for a checkpoint of another method.
            NotFittedError: for one without a summary.
        """
        self.load_learned(checkpoint)
        self.require_fitted()
        self.growing = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the names of the training images beside the summary."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["training_paths"] = self.training_paths

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the names of the training images."""
        super().on_load_checkpoint(checkpoint)
        self.training_paths = list(checkpoint["training_paths"])

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
            UsageError: for other `max_epochs`, for `max_steps`, or for accumulated gradients; to grow and trim at once.
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
        if self.growing and self.trim:
            raise UsageError(
                f"a {name} that grows cannot trim: the images of before cannot be read again"
            )
        if any(
            isinstance(c, WeightAveraging | StochasticWeightAveraging) for c in trainer.callbacks
        ):
            raise UsageError(f"{name} has no weights to average; leave out the averaging callback")
        self._progress, self.batches_kept = None, 0
        folder, of = trainer.strategy.broadcast((self.progress_folder, self.progress_of))
        if folder is not None:
            data = trainer.datamodule
            told = [of, len(data.samples["train"]), data.batch_size, data.seed]
            self._progress = FitProgress(folder, self.progress_minutes, self.device, told)
            self.batches_kept = max(
                0, self._progress.last(SERIES) - 1
            )  # one is read again: Lightning wants a batch

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
        self._seen, self._began, self.seconds_before = 0, time.perf_counter(), 0.0
        self._batches = self._again = self._written = 0
        self.begin()
        if self._progress is not None and (number := self._progress.last(SERIES)):
            for piece in self._progress.up_to(SERIES, number, self.cumulative):
                self.restore(piece)
                self._seen, self.seconds_before = piece["seen"], piece["seconds"]
            self._batches, self._again, self._written = self.batches_kept, 1, self._seen
            seen = sum_over_processes(self._seen, self.device)
            rank_zero_info(
                f"{seen} training images were read before; the fit goes on with the others"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Observes a batch; the loss is a zero that has a gradient."""
        batch = batch.without_padding()
        if len(batch) and not self._again:
            self._seen += len(batch)
            with torch.no_grad():
                self.observe(batch.image, batch.index)
        self._batches, self._again = self._batches + 1, 0
        asked = self._batches % ASKED == 0 or self.trainer.world_size == 1
        if self._progress is not None and asked and self._progress.due():
            self.keep_progress()
        return self.anchor * 0

    def keep_progress(self) -> bool:
        """Writes what was observed since the last time; on all processes at once. Whether there is a place for it."""
        if self._progress is None:
            return False
        if self._batches > self._progress.last(SERIES):
            spent = self.seconds_before + time.perf_counter() - self._began
            told = {"seen": self._seen, "seconds": spent}
            if not self._progress.write(
                SERIES, self._batches, ({**p, **told} for p in self.partial_state(self._written))
            ):
                self._progress = None
                return False
            self._written = self._seen
            if self.cumulative:
                self._progress.keep_two(SERIES)
        return True

    def _keeper(self, series: str) -> SelectionKeeper | None:
        """Keeps a selection beside what was observed."""
        if self._progress is None:
            return None
        return SelectionKeeper(self._progress, series, self.keep_progress, self.told, self.stop)

    def on_validation_start(self) -> None:
        """Validation runs inside the epoch, before its end: the summary must be there."""
        self._complete_once()

    def on_train_epoch_end(self) -> None:
        """Builds the summary where no validation came first."""
        self._complete_once()

    def _complete_once(self) -> None:
        if self.fitted or self.trainer.sanity_checking:
            return
        seen, data = (
            sum_over_processes(self._seen, self.device),
            self.trainer.train_dataloader.dataset,
        )
        if seen != len(data):
            raise UserError(
                f"the epoch ended after {seen} of {len(data)} training images, and a {type(self).__name__} of a part "
                "of them would look like one of all; leave out trainer.max_time, limit_train_batches and early stopping"
            )
        read = time.perf_counter()
        with torch.no_grad():
            self.complete()
            self._progress = None  # a second fit, without suspicious images, would mistake this one's for its own
            self.took = {"reading": read - self._began, "summarising": time.perf_counter() - read}
            rows = list(range(len(data)))
            if self.list_suspects or self.trim:
                rows = without_suspects(self, [s.path for s in data.samples])
        before = self.images_before
        self.training_paths = [*self.training_paths[:before], *(data.names[row] for row in rows)]
        self.images.fill_(before + len(rows))
        self.trained_images = int(self.images) // self.tiles_per_image
        self.growing = False
        self.fitted.fill_(True)
