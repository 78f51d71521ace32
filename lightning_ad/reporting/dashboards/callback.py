"""When dashboards show what: facts at the start, images at each validation, the test at its end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_ad.data.sample import Batch
from lightning_ad.data.sampler import HELD_OUT, RowKey
from lightning_ad.errors import Preempted
from lightning_ad.evaluation.catalogue import PLOTS
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.features.maps import hide
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.reporting.dashboards import Dashboard, PlottedLine, ScoredImage, dashboards
from lightning_ad.reporting.dashboards.panels import panel
from lightning_ad.reporting.dashboards.safe_logger import SafeLogger
from lightning_ad.reporting.pictures import Picture, as_picture, colour_scale
from lightning_ad.reporting.run_images import RunImages
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import ImageResult, of_label, scores_of
from lightning_ad.system.names import printable


class DashboardRecorder(Callback):
    """Shows facts about the run, and the same held-out images after several validations.

    They are shown after each of the first ten validations, then whenever a tenth more of them have
    been done; on the first process. A dashboard that fails is a warning, not the end of the run.

    Args:
        facts: returns facts about the run by name; called once its data are there.
        config: the whole configuration as YAML.
        count: how many images of a set are shown; 0 for none.
    """

    def __init__(self, facts: Callable[[], Mapping[str, Any]], config: str, count: int) -> None:
        self.facts = facts
        self.config = config
        self.count = count
        self._validations = 0
        self._next = 0

    def on_fit_start(self, trainer: Trainer, pl_module: AnomalyModule) -> None:
        """Shows the facts."""
        if not trainer.is_global_zero or not trainer.loggers:
            return
        facts = self.facts()
        for dashboard in dashboards(trainer.loggers):
            with _failure_is_a_warning(dashboard):
                dashboard.begin()
                dashboard.facts(facts, self.config)

    def on_exception(
        self, trainer: Trainer, pl_module: AnomalyModule, exception: BaseException
    ) -> None:
        """Keeps a run that was stopped, and can go on, from being marked as failed."""
        if not trainer.is_global_zero or not isinstance(exception, Preempted | KeyboardInterrupt):
            return
        for logger in trainer.loggers:
            if isinstance(logger, SafeLogger):
                logger.note_stop()
        for dashboard in dashboards(trainer.loggers):
            with _failure_is_a_warning(dashboard):
                dashboard.pause()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: AnomalyModule) -> None:
        """Scores the picked images once more, and shows them.

        If the run draws synthetic anomalies for them, every other image has one.
        """
        self._validations += 1
        if not self._shows(trainer):
            return
        shown = dashboards(trainer.loggers)
        if not shown:
            return
        self._next = max(self._validations + 1, int(self._validations * 1.1))
        images = self._validation_images(trainer, pl_module)
        panels = _panels(images, *_colour_scale(images))
        for dashboard in shown:
            with _failure_is_a_warning(dashboard):
                dashboard.images("validation", images, panels, trainer.global_step)

    def _shows(self, trainer: Trainer) -> bool:
        """Returns whether images of this validation are shown."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return False
        has_images = self.count > 0 and bool(trainer.val_dataloaders)
        return has_images and self._validations >= self._next

    def _validation_images(self, trainer: Trainer, module: AnomalyModule) -> list[ScoredImage]:
        loader = trainer.val_dataloaders
        rows = pick_examples([sample.defect for sample in loader.dataset.samples], self.count)
        images: list[ScoredImage] = []
        for start in range(0, len(rows), loader.batch_size):
            part = rows[start : start + loader.batch_size]
            images += _scored_images(trainer, module, part, start)
        loader.dataset.forget()
        return images


def _colour_scale(images: Sequence[ScoredImage]) -> tuple[float, float]:
    labels = [int(image.truth.any()) for image in images]
    return colour_scale(labels, lambda number: images[number].map)


def _panels(images: Sequence[ScoredImage], low: float, high: float) -> list[Picture]:
    return [panel(image, low, high) for image in images]


def _scored_images(
    trainer: Trainer, module: AnomalyModule, rows: Sequence[int], first: int
) -> list[ScoredImage]:
    """Scores held-out images (of images by tiles, the middle one) as a validation does.

    `first` is the number of the first of `rows` among all images that are shown.
    """
    batch = _held_out_batch(trainer, module, rows)
    with trainer.precision_plugin.forward_context():
        image, mask = _with_every_other_anomalous(module, batch, first)
        found = module(image, batch.ignore)
    maps = hide(found.map.float(), batch.ignore)
    images = []
    for i, path in enumerate(batch.path):
        images.append(
            ScoredImage(
                name=printable(f"{first + i} {Path(path).name}"),
                score=float(found.score[i]),
                image=as_picture(image[i]),
                map=maps[i].cpu().numpy(),
                truth=mask[i].cpu().numpy(),
            )
        )
    return images


def _held_out_batch(trainer: Trainer, module: AnomalyModule, rows: Sequence[int]) -> Batch:
    loader = trainer.val_dataloaders
    tiles = module.tiles_per_image
    items = []
    for row in rows:
        middle_tile = row * tiles + tiles // 2
        items.append(loader.dataset[RowKey(middle_tile, HELD_OUT)])
    batch = loader.collate_fn(items)
    return trainer.strategy.batch_to_device(batch, module.device)


def _with_every_other_anomalous(
    module: AnomalyModule, batch: Batch, first: int
) -> tuple[Tensor, Tensor]:
    """Returns images and masks of a batch, with synthetic anomalies on every other good image."""
    draws_anomalies = module.data is not None and module.data.validation_anomalies
    if not draws_anomalies or not batch.recipe:
        return batch.image, batch.mask
    anomalous, mask = module.with_anomalies(batch)
    numbers = torch.arange(first, first + len(batch), device=batch.image.device)
    changed = (numbers % 2 == 0) & (batch.label == 0)
    image = torch.where(changed[:, None, None, None], anomalous, batch.image)
    return image, torch.where(changed[:, None, None], mask, batch.mask)


@contextmanager
def _failure_is_a_warning(dashboard: Dashboard) -> Iterator[None]:
    """Turns any error of a dashboard into a warning."""
    try:
        yield
    except Exception as error:
        name = type(dashboard.logger).__name__
        rank_zero_warn(f"{name} failed, but the run continues: {type(error).__name__}: {error}")


def show_test(
    trainer: Trainer,
    results: RunResults,
    images: RunImages,
    numbers: Mapping[str, float],
    count: int,
) -> None:
    """Shows images of the test, the distributions of the scores, and curves; logs `numbers`.

    Args:
        trainer: has the loggers.
        results: the results of the test.
        images: the pictures of its rows.
        numbers: the cost of the run by name: seconds, memory, sizes.
        count: how many images are shown.
    """
    step = trainer.global_step
    shown = dashboards(trainer.loggers)
    examples: list[ScoredImage] = []
    if shown:
        examples = _test_images(results, images, count)
    panels = _panels(examples, *images.colour_scale)
    for dashboard in shown:
        with _failure_is_a_warning(dashboard):
            dashboard.facts({"test_set": results.protocol["test_set"]}, results.config)
            if examples:
                dashboard.images("test", examples, panels, step)
            _show_distributions(dashboard, results.rows, step)
            _show_curves(dashboard, results, step)
    for logger in trainer.loggers:
        with _failure_is_a_warning(Dashboard(logger)):
            logger.log_metrics(dict(numbers), step)
            logger.save()


def _test_images(results: RunResults, images: RunImages, count: int) -> list[ScoredImage]:
    rows = results.rows
    examples = []
    for number, place in enumerate(pick_examples([row.defect for row in rows], count)):
        row = rows[place]
        name = printable(f"{number} {row.defect} {Path(row.path).name}")
        examples.append(_test_image(name, row, images, results.threshold))
    return examples


def _test_image(
    name: str, row: ImageResult, images: RunImages, threshold: Threshold | None
) -> ScoredImage:
    image, mask = images.read(row)
    map = images.map(row)
    called = None
    if threshold is not None and threshold.pixel is not None:
        called = map > threshold.pixel
    return ScoredImage(name, row.score, image, map, mask, called)


def _show_distributions(dashboard: Dashboard, rows: Sequence[ImageResult], step: int) -> None:
    for label, kind in enumerate(("good", "anomalous")):
        scores = scores_of(of_label(rows, label))
        if len(scores):
            dashboard.distribution(f"scores/{kind}", scores.astype(np.float32), step)


def _show_curves(dashboard: Dashboard, results: RunResults, step: int) -> None:
    for name, (x, y) in results.plots.items():
        if len(x):
            line = PlottedLine(x, y, PLOTS[name].x, PLOTS[name].y)
            dashboard.curve(f"curves/{name}", line, step)


def pick_examples(kinds: Sequence[str], count: int) -> list[int]:
    """Picks `count` images: the first of each kind, in order of kinds, then the second, and so on.

    They depend on the data alone, so that each run and each evaluation shows the same.

    Args:
        kinds: the kind of defect of each image.
        count: how many to pick; all, if there are fewer.
    """
    turns: dict[str, int] = {}
    in_turn = []
    for place, kind in enumerate(kinds):
        turn = turns.get(kind, 0)
        turns[kind] = turn + 1
        in_turn.append((turn, kind, place))
    return [place for _, _, place in sorted(in_turn)[:count]]
