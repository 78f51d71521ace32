"""When dashboards are told what: facts at the start, held-out images at each validation, the test at its end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_ad.data.sampler import HELD_OUT, RowKey
from lightning_ad.evaluation.thresholds import Threshold
from lightning_ad.features.maps import hide
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.reporting.dashboards import Dashboard, Scene, dashboards
from lightning_ad.reporting.dashboards.panels import colours, panel
from lightning_ad.reporting.html.report import PLOTS
from lightning_ad.reporting.maps import read_map
from lightning_ad.reporting.pictures import Mask, Picture
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import ImageResult


class DashboardRecorder(Callback):
    """Shows facts, and the same held-out images at the first ten validations, then at each tenth part more of them.

    On the first process. A dashboard that cannot be reached is a warning, not the end of the run.

    Args:
        facts: of the run, by name, once its data are there.
        config: the whole configuration as YAML.
        count: how many images of a set are shown; 0 for none.
    """

    def __init__(self, facts: Callable[[], Mapping[str, Any]], config: str, count: int) -> None:
        self.facts, self.config, self.count = facts, config, count
        self._validations = self._next = 0

    def on_fit_start(self, trainer: Trainer, pl_module: AnomalyModule) -> None:
        """Tells the facts."""
        if not trainer.is_global_zero or not trainer.loggers:
            return
        facts = self.facts()
        for dashboard in dashboards(trainer.loggers):
            with _no_harm(dashboard):
                dashboard.facts(facts, self.config)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: AnomalyModule) -> None:
        """Scores the chosen images once more, every other one with a synthetic anomaly where the run draws some."""
        shown = (
            dashboards(trainer.loggers)
            if trainer.is_global_zero and not trainer.sanity_checking
            else []
        )
        loader = trainer.val_dataloaders
        self._validations += 1
        if not shown or not self.count or not loader or self._validations < self._next:
            return
        self._next = max(self._validations + 1, int(self._validations * 1.1))
        rows = chosen([sample.defect for sample in loader.dataset.samples], self.count)
        scenes: list[Scene] = []
        for start in range(0, len(rows), loader.batch_size):
            scenes += _scored(trainer, pl_module, rows[start : start + loader.batch_size], start)
        loader.dataset.forget()
        scale = colours(scenes)
        for dashboard in shown:
            with _no_harm(dashboard):
                dashboard.scenes(
                    "validation", scenes, [panel(s, *scale) for s in scenes], trainer.global_step
                )


def _scored(
    trainer: Trainer, module: AnomalyModule, rows: Sequence[int], first: int
) -> list[Scene]:
    """Held-out images (by tiles, the middle one of each), as a validation scores them."""
    loader, tiles = trainer.val_dataloaders, module.tiles_per_image
    keys = [RowKey(row * tiles + tiles // 2, HELD_OUT) for row in rows]
    batch = loader.collate_fn([loader.dataset[key] for key in keys])
    batch = trainer.strategy.batch_to_device(batch, module.device)
    image, mask = batch.image, batch.mask
    with trainer.precision_plugin.forward_context():
        if trainer.datamodule.validation_anomalies and batch.recipe:  # type: ignore[attr-defined]
            drawn, where = module.with_anomalies(batch)
            changed = (torch.arange(first, first + len(image), device=image.device) % 2 == 0) & (
                batch.label == 0
            )
            image = torch.where(changed[:, None, None, None], drawn, image)
            mask = torch.where(changed[:, None, None], where, mask)
        found = module(image, batch.ignore)
    maps = hide(found.map.float(), batch.ignore)
    return [
        Scene(
            f"{first + i} {Path(path).name}",
            float(score),
            _pixels(one),
            map.cpu().numpy(),
            truth.cpu().numpy(),
        )
        for i, (path, score, one, map, truth) in enumerate(
            zip(batch.path, found.score, image, maps, mask, strict=True)
        )
    ]


@contextmanager
def _no_harm(dashboard: Dashboard) -> Iterator[None]:
    """What a dashboard cannot take is said, and nothing else."""
    try:
        yield
    except Exception as error:
        rank_zero_warn(
            f"{type(dashboard.logger).__name__} could not be told: {type(error).__name__}: {error}"
        )


def show_test(
    trainer: Trainer,
    results: RunResults,
    picture: Callable[[ImageResult], tuple[Picture, Mask]],
    folder: Path,
    facts: Mapping[str, Any],
    numbers: Mapping[str, float],
    scale: tuple[float, float],
    count: int,
) -> None:
    """Shows images of the test, the distributions of the scores, and curves; logs `numbers`.

    Args:
        trainer: whose loggers are told.
        results: of the test.
        picture: the image of a row as the network sees it, and its mask.
        folder: of the run, in which the maps are.
        facts: that are known only now.
        numbers: what the run took: seconds, memory, sizes.
        scale: where the colours of heat maps begin and end, as in the report.
        count: how many images are shown.
    """
    rows, step = results.rows, trainer.global_step
    shown = dashboards(trainer.loggers)
    places = chosen([row.defect for row in rows], count) if shown else []
    scenes = [
        _tested(rows[i], number, picture, folder, results.threshold)
        for number, i in enumerate(places)
    ]
    panels = [panel(scene, *scale) for scene in scenes]
    for dashboard in shown:
        with _no_harm(dashboard):
            dashboard.facts(facts, results.config)
            if scenes:
                dashboard.scenes("test", scenes, panels, step)
            for kind, label in (("good", 0), ("anomalous", 1)):
                values = np.array([row.score for row in rows if row.label == label], np.float32)
                if len(values):
                    dashboard.distribution(f"scores/{kind}", values, step)
            for name, (x, y) in results.plots.items():
                if len(x):
                    dashboard.curve(f"curves/{name}", x, y, PLOTS[name], step)
    for logger in trainer.loggers:
        with _no_harm(Dashboard(logger)):
            logger.log_metrics(dict(numbers), step)
            logger.save()


def _tested(
    row: ImageResult,
    number: int,
    picture: Callable[[ImageResult], tuple[Picture, Mask]],
    folder: Path,
    threshold: Threshold | None,
) -> Scene:
    image, mask = picture(row)
    map = read_map(folder / str(row.map_path)).numpy()
    called = None if threshold is None or threshold.pixel is None else map > threshold.pixel
    return Scene(
        f"{number} {row.defect} {Path(row.path).name}", row.score, image, map, mask, called
    )


def chosen(kinds: Sequence[str], count: int) -> list[int]:
    """Which of some images are shown: the first of each kind in turn, then the second of each, in order of kinds.

    They depend on the data alone, so that each run and each evaluation shows the same.
    """
    places = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in sorted({*kinds})}
    deepest = max(map(len, places.values()), default=0)
    in_turn = [
        places[kind][turn] for turn in range(deepest) for kind in places if turn < len(places[kind])
    ]
    return in_turn[:count]


def _pixels(image: Tensor) -> Picture:
    return image.float().mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
