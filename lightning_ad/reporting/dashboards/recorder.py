"""When dashboards are told what: facts at the start, held-out images at each validation, the test at its end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lightning_ad.data.sample import Batch
from lightning_ad.evaluation.verdicts import Threshold
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.reporting.dashboards import Scene, dashboards
from lightning_ad.reporting.dashboards.drawing import colours, panel
from lightning_ad.reporting.figures import Mask, Picture
from lightning_ad.reporting.maps import read_map
from lightning_ad.reporting.predictions import ImageResult
from lightning_ad.reporting.report import PLOTS, RunResults


class DashboardRecorder(Callback):
    """Shows facts, and the same held-out images at every validation; on the first process.

    Args:
        facts: of the run, by name, once its data are there.
        config: the whole configuration as YAML.
        count: how many images of a set are shown; 0 for none.
    """

    def __init__(self, facts: Callable[[], Mapping[str, Any]], config: str, count: int) -> None:
        self.facts, self.config, self.count = facts, config, count

    def on_fit_start(self, trainer: Trainer, pl_module: AnomalyModule) -> None:
        """Tells the facts."""
        if not trainer.is_global_zero or not trainer.loggers:
            return
        facts = self.facts()
        for dashboard in dashboards(trainer.loggers):
            dashboard.facts(facts, self.config)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: AnomalyModule) -> None:
        """Scores the chosen images once more, the first of them with a synthetic anomaly where the run draws some."""
        shown = dashboards(trainer.loggers) if trainer.is_global_zero and not trainer.sanity_checking else []
        loader = trainer.val_dataloaders
        if not shown or not self.count or not loader:
            return
        rows = chosen([sample.defect for sample in loader.dataset.samples], self.count)
        per_image = pl_module.rows_per_image
        batch = loader.collate_fn([loader.dataset[row * per_image + per_image // 2] for row in rows])
        batch = trainer.strategy.batch_to_device(batch, pl_module.device)
        with trainer.precision_plugin.forward_context():
            scenes = _scored(pl_module, batch, trainer.datamodule.validation_anomalies)  # type: ignore[attr-defined]
        panels = [panel(scene, *colours(scenes)) for scene in scenes]
        for dashboard in shown:
            dashboard.scenes("validation", scenes, panels, trainer.global_step)


def _scored(module: AnomalyModule, batch: Batch, anomalies: bool) -> list[Scene]:
    image, mask = batch.image, batch.mask
    if anomalies and batch.recipe:
        rows = torch.arange(len(image), device=image.device) % 2 == 0
        rows &= batch.label == 0
        _, drawn, where = module.validation_synthesis.apply(image, batch.recipe)
        image = torch.where(rows[:, None, None, None], drawn, image)
        mask = torch.where(rows[:, None, None], where, mask)
    found = module(image, batch.ignore)
    return [
        Scene(f"{i} {Path(path).name}", float(score), _pixels(one), map.float().cpu().numpy(), truth.cpu().numpy())
        for i, (path, score, one, map, truth) in enumerate(
            zip(batch.path, found.score, image, found.map, mask, strict=True)
        )
    ]


def show_test(
    trainer: Trainer,
    results: RunResults,
    picture: Callable[[ImageResult], tuple[Picture, Mask]],
    folder: Path,
    facts: Mapping[str, Any],
    numbers: Mapping[str, float],
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
        count: how many images are shown.
    """
    rows, step = results.rows, trainer.global_step
    for logger in trainer.loggers:
        logger.log_metrics(dict(numbers), step)
    if shown := dashboards(trainer.loggers):
        scenes = [
            _tested(rows[i], number, picture, folder, results.threshold)
            for number, i in enumerate(chosen([row.defect for row in rows], count))
        ]
        panels = [panel(scene, *colours(scenes)) for scene in scenes]
        for dashboard in shown:
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
    return Scene(f"{number} {row.defect} {Path(row.path).name}", row.score, image, map, mask, called)


def chosen(kinds: Sequence[str], count: int) -> list[int]:
    """Which of some images are shown: the first of each kind in turn, then the second of each, in order of kinds.

    They depend on the data alone, so that each run and each evaluation shows the same.
    """
    places = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in sorted({*kinds})}
    deepest = max(map(len, places.values()), default=0)
    in_turn = [places[kind][turn] for turn in range(deepest) for kind in places if turn < len(places[kind])]
    return in_turn[:count]


def _pixels(image: Tensor) -> Picture:
    return image.float().mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
