"""Training images that do not look like the others: scored as though each had not been in the fit, and left out."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from lightning_ad.data.sample import Batch
from lightning_ad.errors import UserError
from lightning_ad.methods.base import Suspect
from lightning_ad.system.distributed import gather_rows
from lightning_ad.system.progress import progress

if TYPE_CHECKING:
    from lightning_ad.methods.fit_only import FitOnlyModule


def without_suspects(module: "FitOnlyModule", names: Sequence[str]) -> list[int]:
    """Lists the suspicious training images, fits again without those that are to be trimmed; the rows kept.

    An image by tiles is as suspicious as the most suspicious of them, and is trimmed as a whole.
    """
    found, precision = [], module.trainer.precision_plugin
    for batch in _images_again(module, "Scoring the training images"):
        with precision.forward_context():
            scores = module.leave_one_out(batch.image, batch.index, batch.ignore)
        found.append(torch.stack((batch.index.double(), scores.double()), 1))
    rows, scores = gather_rows(torch.cat(found)).cpu().unbind(1)
    scores = scores[rows.argsort()].view(len(names), -1).amax(1)
    order = scores.argsort(descending=True, stable=True).tolist()
    trimmed = {*order[: int(len(names) * module.trim)]}
    module.suspects = [Suspect(names[i], float(scores[i]), i in trimmed) for i in order]
    tiles = module.tiles_per_image
    kept = [row for row in range(len(names) * tiles) if row // tiles not in trimmed]
    if trimmed:
        own = sum(row // tiles not in trimmed for row in torch.cat(found)[:, 0].long().tolist())
        if int(gather_rows(torch.tensor([own], device=module.device)).min()) == 0:
            raise UserError(
                f"without the {len(trimmed)} images that are trimmed, a process has none left to fit: trim fewer "
                "(--trim), or run fewer processes (trainer.devices)"
            )
        places = torch.full((len(names) * tiles,), -1)
        places[kept] = torch.arange(len(kept))
        module.begin()
        for batch in _images_again(module, "Fitting without the suspicious images"):
            place = places[batch.index.cpu()].to(module.device)
            if bool((place >= 0).any()):
                with precision.forward_context():
                    module.observe(batch.image[place >= 0], place[place >= 0])
        module.complete()
    return kept


def _images_again(module: "FitOnlyModule", description: str) -> Iterator[Batch]:
    """The batches of the training images that this process has seen, once more."""
    loader = module.trainer.train_dataloader
    loader.sampler.start = 0  # those that an earlier fit has read, too
    again = DataLoader(
        loader.dataset, loader.batch_size, sampler=loader.sampler, num_workers=loader.num_workers,
        collate_fn=loader.collate_fn, worker_init_fn=loader.worker_init_fn,
    )  # fmt: skip
    for batch in progress(again, description, unit="batch"):
        batch = module.trainer.strategy.batch_to_device(batch.without_padding(), module.device)
        if len(batch):
            yield batch
