"""Training images that do not look like the others: scored as if each had not been in the fit."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ad.data.sample import Batch
from lightning_ad.data.sampler import KeySampler
from lightning_ad.errors import NotFiniteError, UserError
from lightning_ad.system.distributed import gather_rows
from lightning_ad.system.progress import progress


class Suspect(NamedTuple):
    """A training image, with the score that it has if it is not in the fit."""

    path: str
    score: float
    trimmed: bool


class Refittable(Protocol):
    """A fit-only method within its trainer, right after a fit; see `FitOnlyModule`."""

    trainer: Trainer

    @property
    def device(self) -> torch.device: ...

    @property
    def tiles_per_image(self) -> int: ...

    def begin(self) -> None: ...

    def observe(self, image: Tensor, index: Tensor) -> None: ...

    def complete(self) -> None: ...

    def leave_one_out(
        self, image: Tensor, index: Tensor, ignore: Tensor | None = None
    ) -> Tensor: ...


class Refit(NamedTuple):
    """The training images after they were scored.

    Attributes:
        suspects: all of them, the most suspicious first.
        rows: of the training set that are in the fit.
    """

    suspects: list[Suspect]
    rows: list[int]


class _Scores(NamedTuple):
    """Scores of the training images.

    Attributes:
        of_images: float64, of all of them.
        own_rows: those of the training set that this process has scored.
    """

    of_images: Tensor
    own_rows: list[int]


def leave_out_suspects(method: Refittable, paths: Sequence[str], trim: float) -> Refit:
    """Lists suspicious training images, and fits again without the share `trim` of them.

    An image by tiles is as suspicious as the most suspicious of them, and is left out as a whole.

    Args:
        method: right after the fit.
        paths: of the training images.
        trim: the share of them that is left out.

    Raises:
        UserError: if a process would have no image left to fit.
    """
    scores = _score(method, len(paths))
    order = scores.of_images.argsort(descending=True, stable=True).tolist()
    trimmed = set(order[: int(len(paths) * trim)])
    suspects = [Suspect(paths[i], float(scores.of_images[i]), i in trimmed) for i in order]
    tiles = method.tiles_per_image
    rows = [row for row in range(len(paths) * tiles) if row // tiles not in trimmed]
    if trimmed:
        _check_that_all_have_some(method, scores.own_rows, trimmed)
        _fit_again(method, rows, len(paths) * tiles)
    return Refit(suspects, rows)


def _score(method: Refittable, images: int) -> _Scores:
    found = []
    for batch in _images_again(method, "Scoring the training images"):
        with method.trainer.precision_plugin.forward_context():
            scores = method.leave_one_out(batch.image, batch.index, batch.ignore)
        missing = scores.isnan()  # infinite is a score without any other image to compare with
        if bool(missing.any()):
            first = int(missing.int().argmax())
            raise NotFiniteError("score", first, batch.path[first])
        found.append(torch.stack((batch.index.double(), scores.double()), 1))
    own = torch.cat(found)
    rows, scores = gather_rows(own).cpu().unbind(1)
    of_images = scores[rows.argsort()].view(images, -1).amax(1)
    return _Scores(of_images, own[:, 0].long().tolist())


def _check_that_all_have_some(method: Refittable, own_rows: list[int], trimmed: set[int]) -> None:
    """Raises UserError on all processes if one of them has only images that are left out."""
    left = [row for row in own_rows if row // method.tiles_per_image not in trimmed]
    fewest = gather_rows(torch.tensor([len(left)], device=method.device)).min()
    if int(fewest) == 0:
        raise UserError(
            f"without the {len(trimmed)} images that are trimmed, a process has none left to fit: "
            "trim fewer (--trim), or run fewer processes (trainer.devices)"
        )


def _fit_again(method: Refittable, rows: list[int], count: int) -> None:
    """Fits the rows of `count` that are left; they are numbered without gaps."""
    places = torch.full((count,), -1)
    places[rows] = torch.arange(len(rows))
    method.begin()
    for batch in _images_again(method, "Fitting without the suspicious images"):
        place = places[batch.index.cpu()].to(method.device)
        left = place >= 0
        if bool(left.any()):
            with method.trainer.precision_plugin.forward_context():
                method.observe(batch.image[left], place[left])
    method.complete()


def _images_again(method: Refittable, description: str) -> Iterator[Batch]:
    """Yields the batches of training images of this process once more."""
    strategy = method.trainer.strategy
    loader = method.trainer.train_dataloader
    sampler = loader.sampler
    if isinstance(sampler, KeySampler):
        sampler = sampler.from_the_start()  # a resumed fit leaves out what it had read before
    again = DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )
    for batch in progress(again, description, unit="batch"):
        batch = strategy.batch_to_device(batch.without_padding(), method.device)
        if len(batch):
            yield batch
