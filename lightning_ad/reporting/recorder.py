"""Callbacks that put a run's results on disk while it goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_ad.data.sample import Batch, Prediction
from lightning_ad.evaluation import (
    auroc,
    average_precision,
    conformal_p_values,
    curve_of,
    images_needed,
)
from lightning_ad.evaluation.thresholds import REJECT, Calibration, Method, Threshold, choose
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.reporting.maps import write_map
from lightning_ad.reporting.tables import ImageResult
from lightning_ad.system.distributed import world_size
from lightning_ad.system.run_folder import RunFolder
from lightning_ad.system.threads import map_single_threaded


class TestRecorder(Callback):
    """Writes a map for each test image and keeps the rows of `predictions.csv`.

    Args:
        folder: of the run.
        method: by which the threshold is chosen (`verdicts.choose`).
        reject: the share of good parts that may be called anomalous; None for 1 % where enough images are held out.

    Attributes:
        threshold: above which an image or a pixel is called anomalous; None for no verdicts.
        rows: of all processes, in the order of the data set, on the first process after the test.
        without_outline: anomalous images without a defective pixel, as the network sees them; likewise.
    """

    def __init__(
        self, folder: RunFolder, method: Method | float | None = None, reject: float | None = None
    ) -> None:
        self.folder, self.method, self.reject = folder, method, reject
        self.threshold: Threshold | None = None
        self.rows: list[ImageResult] = []
        self.without_outline: list[str] = []
        self._own: list[tuple[int, ImageResult, bool]] = []

    def on_test_start(self, trainer: Trainer, pl_module: AnomalyModule) -> None:
        """Forgets an earlier test; all processes write into the first one's folder."""
        self.folder = RunFolder(Path(trainer.strategy.broadcast(str(self.folder.path))))
        self.rows, self._own, self.threshold = [], [], None
        self._calibration = _fitting(pl_module.calibration, trainer)
        needs_none = isinstance(self.method, int | float) or self.method == "chi2"
        if needs_none or len(self._calibration) == len(pl_module.calibration):
            self.threshold = choose(
                self.method, self.reject, self._calibration, pl_module.chi_square_threshold
            )
        if self.threshold is None and (count := len(self._calibration)):
            rank_zero_warn(
                f"{count} held-out good images give p-values down to {1 / (count + 1):.2g}; verdicts at {REJECT:g} "
                f"take {images_needed(REJECT)} (data.validation_share), so there are none; --reject allows for more "
                "false alarms"
            )

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: AnomalyModule,
        outputs: Prediction | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the maps of a batch."""
        if outputs is None:
            return
        batch = batch.without_padding()
        scores = outputs.score.float().cpu()
        p_values: list[float | None] = [None] * len(scores)
        if len(self._calibration):
            p_values = conformal_p_values(scores, self._calibration.good).tolist()
        maps = outputs.map.float().cpu()
        paths = [
            Path("maps") / defect / f"{index:05d}-{Path(path).stem}.png"
            for defect, index, path in zip(
                batch.defect, batch.index.tolist(), batch.path, strict=True
            )
        ]
        map_single_threaded(
            lambda i: write_map(self.folder.path / paths[i], maps[i]), range(len(paths))
        )
        for i, index in enumerate(batch.index.tolist()):
            p = p_values[i]
            nearest = (
                None
                if outputs.nearest is None
                else _place(outputs.nearest[i], pl_module.training_paths)
            )
            kept = None if batch.ignore is None else ~batch.ignore[i].cpu()
            map, mask = maps[i], batch.mask[i].cpu()
            row = ImageResult(
                path=batch.path[i],
                label=int(batch.label[i]),
                defect=batch.defect[i],
                score=float(scores[i]),
                p_value=p,
                anomalous=None
                if self.threshold is None
                else float(scores[i]) > self.threshold.image,
                area=_area(map if kept is None else map[kept], self.threshold),
                **(
                    _of_its_pixels(map, mask)
                    if kept is None
                    else _of_its_pixels(map[kept], mask[kept])
                ),
                map_path=str(paths[i]),
                nearest=nearest,
            )
            self._own.append((index, row, bool(row.label) and not bool(mask.any())))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the rows of all processes to the first."""
        parts = [self._own]
        if world_size() > 1:
            gathered: list[Any] | None = [None] * world_size() if trainer.is_global_zero else None
            dist.gather_object(self._own, gathered)
            parts = gathered or []
        found = sorted((r for part in parts for r in part), key=lambda r: r[0])
        self.rows = [row for _, row, _ in found]
        self.without_outline = [row.path for _, row, blank in found if blank]


def _fitting(calibration: Calibration, trainer: Trainer) -> Calibration:
    """The calibration, or an empty one where its images were seen otherwise than those of the test."""
    data = getattr(trainer, "datamodule", None)
    if data is None or not len(calibration) or calibration.view in ("", data.view):
        return calibration
    rank_zero_warn(
        f"The held-out images were seen otherwise ({calibration.view}) than these ({data.view}): their scores give no "
        "p-values here, and no threshold."
    )
    return Calibration.empty()


def _area(map: Tensor, threshold: Threshold | None) -> float | None:
    """The share of its pixels that is called anomalous."""
    if threshold is None or threshold.pixel is None or not map.numel():
        return None
    return float((map > threshold.pixel).double().mean())


def _of_its_pixels(map: Tensor, mask: Tensor) -> dict[str, float]:
    """The pixel metrics of an image by itself, where it has an outline and is not all of it."""
    if not bool(mask.any()) or bool(mask.all()):
        return {}
    curve = curve_of(map.flatten(), mask.flatten().float())
    return {"pixel_auroc": auroc(curve), "pixel_ap": average_precision(curve)}


def _place(nearest: Tensor, paths: Sequence[str]) -> str:
    image, row, column = nearest.tolist()
    return f"{paths[image]}@{row},{column}"
