"""Base of the methods that see every training image once and keep a summary of them."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_ad.data.sample import Batch
from lightning_ad.errors import UsageError, UserError
from lightning_ad.methods.base import AnomalyModule, NotFittedError, Suspect
from lightning_ad.progress import progress
from lightning_ad.statistics.distributed import gather_rows, sum_over_processes


class FitOnlyModule(AnomalyModule):
    """A method without a loss: `observe` takes the batches of one epoch, `complete` builds the summary.

    The summary does not depend on batch size, order, workers or processes. A second fit forgets the first. A
    checkpoint holds a complete summary, or `fitted` is false in it.

    Attributes:
        images: int64, of which the summary is.
        growing: what was fitted before stays, and the images that are observed are added to it.
        list_suspects: score the training images after the fit, as though each had not been in it.
        trim: the share of the training images that is left out, the most suspicious ones; they are then listed too.
        took: seconds of the last fit by stage: `reading` the images, and `summarising` them.
    """

    precisions = ("32-true", "bf16-mixed")
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

    def begin(self) -> None:
        """Makes room, and forgets what was fitted before unless `growing`; the trainer and its data are there."""
        raise NotImplementedError

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Takes [B, 3, H, W] good images in [0, 1], the rows `index` [B] of the training set; each row comes once."""
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
        self.take_over(checkpoint)
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
            raise UsageError(f"a {name} that grows cannot trim: the images of before cannot be read again")
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
        self._seen, self._began = 0, time.perf_counter()
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
        seen, data = sum_over_processes(self._seen, self.device), self.trainer.train_dataloader.dataset
        if seen != len(data):
            raise UserError(
                f"the epoch ended after {seen} of {len(data)} training images, and a {type(self).__name__} of a part "
                "of them would look like one of all; leave out trainer.max_time, limit_train_batches and early stopping"
            )
        read = time.perf_counter()
        with torch.no_grad():
            self.complete()
            self.took = {"reading": read - self._began, "summarising": time.perf_counter() - read}
            rows = list(range(len(data)))
            if self.list_suspects or self.trim:
                rows = self._without_suspects([s.path for s in data.samples])
        before = self.images_before
        self.training_paths = [*self.training_paths[:before], *(data.names[row] for row in rows)]
        self.images.fill_(before + len(rows))
        self.trained_images = int(self.images) // self.rows_per_image
        self.growing = False
        self.fitted.fill_(True)

    def _without_suspects(self, names: Sequence[str]) -> list[int]:
        """Lists the suspicious training images, fits again without those that are to be trimmed; the rows kept.

        An image by tiles is as suspicious as the most suspicious of them, and is trimmed as a whole.
        """
        found, precision = [], self.trainer.precision_plugin
        for batch in self._images_again("Scoring the training images"):
            with precision.forward_context():
                scores = self.leave_one_out(batch.image, batch.index, batch.ignore)
            found.append(torch.stack((batch.index.double(), scores.double()), 1))
        rows, scores = gather_rows(torch.cat(found)).cpu().unbind(1)
        scores = scores[rows.argsort()].view(len(names), -1).amax(1)
        order = scores.argsort(descending=True, stable=True).tolist()
        trimmed = {*order[: int(len(names) * self.trim)]}
        self.suspects = [Suspect(names[i], float(scores[i]), i in trimmed) for i in order]
        tiles = self.rows_per_image
        kept = [row for row in range(len(names) * tiles) if row // tiles not in trimmed]
        if trimmed:
            own = sum(row // tiles not in trimmed for row in torch.cat(found)[:, 0].long().tolist())
            if int(gather_rows(torch.tensor([own], device=self.device)).min()) == 0:
                raise UserError(
                    f"without the {len(trimmed)} images that are trimmed, a process has none left to fit: trim fewer "
                    "(--trim), or run fewer processes (trainer.devices)"
                )
            places = torch.full((len(names) * tiles,), -1)
            places[kept] = torch.arange(len(kept))
            self.begin()
            for batch in self._images_again("Fitting without the suspicious images"):
                place = places[batch.index.cpu()].to(self.device)
                if bool((place >= 0).any()):
                    with precision.forward_context():
                        self.observe(batch.image[place >= 0], place[place >= 0])
            self.complete()
        return kept

    def _images_again(self, description: str) -> Iterator[Batch]:
        """The batches of the training images that this process has seen, once more."""
        loader = self.trainer.train_dataloader
        again = DataLoader(
            loader.dataset, loader.batch_size, sampler=loader.sampler, num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
        )  # fmt: skip
        for batch in progress(again, description, unit="batch"):
            batch = self.trainer.strategy.batch_to_device(batch.real(), self.device)
            if len(batch):
                yield batch
