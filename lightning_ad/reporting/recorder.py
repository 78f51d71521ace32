"""A callback that records a test: maps on disk, and a row of results for each image."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

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
from lightning_ad.evaluation.thresholds import (
    REJECT,
    Calibration,
    Threshold,
    ThresholdMethod,
    choose,
)
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.reporting.maps import write_map
from lightning_ad.reporting.tables import ImageResult
from lightning_ad.system.distributed import world_size
from lightning_ad.system.names import file_name
from lightning_ad.system.run_folder import RunFolder
from lightning_ad.system.threads import map_single_threaded

LONGEST_PART = 220  # bytes that a map's name has of the image's


class _Recorded(NamedTuple):
    """A row, its place in the data set, and whether it is an anomalous image without a mask."""

    index: int
    row: ImageResult
    without_outline: bool


class TestRecorder(Callback):
    """Writes a map for each test image and keeps the rows of `predictions.csv`.

    Args:
        folder: the run folder.
        method: how the threshold is chosen (`thresholds.choose`).
        reject: the share of good parts that may be called anomalous, in (0, 1); None for 1 % if
            enough images are held out.

    Attributes:
        threshold: the scores above which an image and a pixel are called anomalous; None for no
            verdicts.
        rows: of all processes, in the order of the data set; on the first process, after the test.
        indices: the rows of the test set that they are of; some are missing if the trainer's
            settings limit the test.
        without_outline: paths of anomalous images without a defective pixel, as the network sees
            them; on the first process, after the test.
    """

    def __init__(
        self,
        folder: RunFolder,
        method: ThresholdMethod | float | None = None,
        reject: float | None = None,
    ) -> None:
        self.folder = folder
        self.method = method
        self.reject = reject
        self.threshold: Threshold | None = None
        self.rows: list[ImageResult] = []
        self.indices: list[int] = []
        self.without_outline: list[str] = []
        self._calibration = Calibration.empty()
        self._recorded: list[_Recorded] = []

    def on_test_start(self, trainer: Trainer, pl_module: AnomalyModule) -> None:
        """Forgets an earlier test, and chooses the threshold.

        All processes write into the first one's folder.
        """
        path = trainer.strategy.broadcast(str(self.folder.path))
        self.folder = RunFolder(Path(path))
        self.rows = []
        self.indices = []
        self.without_outline = []
        self._recorded = []
        self._calibration = usable_calibration(pl_module)
        self.threshold = self._choose_threshold(pl_module)
        if self.threshold is None and len(self._calibration):
            _warn_of_too_few(len(self._calibration))

    def _choose_threshold(self, module: AnomalyModule) -> Threshold | None:
        needs_calibration = self.method != "chi2" and not isinstance(self.method, int | float)
        if needs_calibration and len(self._calibration) < len(module.calibration):
            return None  # it is of other images, as `usable_calibration` has warned
        return choose(self.method, self.reject, self._calibration, module.chi_square_threshold)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: AnomalyModule,
        outputs: Prediction | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the maps of a batch, and keeps its rows."""
        if outputs is None:
            return
        batch = batch.without_padding()
        maps = outputs.map.float().cpu()
        paths = _map_paths(batch)
        self._write_maps(paths, maps)
        scores = outputs.score.float().cpu()
        p_values = self._p_values(scores)
        for i, index in enumerate(batch.index.tolist()):
            mask = batch.mask[i].cpu()
            score = float(scores[i])
            row = ImageResult(
                path=batch.path[i],
                label=int(batch.label[i]),
                defect=batch.defect[i],
                score=score,
                p_value=p_values[i],
                anomalous=None if self.threshold is None else score > self.threshold.image,
                map_path=str(paths[i]),
                nearest=_nearest_patch(outputs.nearest, i, pl_module.training_paths),
                **self._pixel_results(maps[i], mask, _ignored_pixels(batch, i)),
            )
            without_outline = bool(row.label) and not bool(mask.any())
            self._recorded.append(_Recorded(index, row, without_outline))

    def _write_maps(self, paths: Sequence[Path], maps: Tensor) -> None:
        def write(i: int) -> None:
            write_map(self.folder.path / paths[i], maps[i])

        map_single_threaded(write, range(len(paths)))

    def _p_values(self, scores: Tensor) -> Sequence[float | None]:
        if not len(self._calibration):
            return [None] * len(scores)
        return conformal_p_values(scores, self._calibration.good).tolist()

    def _pixel_results(
        self, map: Tensor, mask: Tensor, ignored: Tensor | None
    ) -> dict[str, float | None]:
        """Returns the fields of an `ImageResult` that are measured on the image's own pixels."""
        if ignored is not None:
            map = map[~ignored]
            mask = mask[~ignored]
        return {"area": _area(map, self.threshold), **_own_pixel_metrics(map, mask)}

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the rows of all processes on the first."""
        recorded = _gather(self._recorded, trainer)
        for one in sorted(recorded, key=lambda one: one.index):
            self.rows.append(one.row)
            self.indices.append(one.index)
            if one.without_outline:
                self.without_outline.append(one.row.path)


def usable_calibration(module: AnomalyModule) -> Calibration:
    """Returns the calibration; empty if it was preprocessed differently from the test images."""
    data = module.data
    calibration = module.calibration
    if data is None or not len(calibration) or calibration.view in ("", data.preprocessing):
        return calibration
    rank_zero_warn(
        f"The calibration images were preprocessed differently ({calibration.view}) from these "
        f"({data.preprocessing}); p-values and the threshold are not available."
    )
    return Calibration.empty()


def _warn_of_too_few(count: int) -> None:
    rank_zero_warn(
        f"{count} held-out good images give p-values down to {1 / (count + 1):.2g}, but verdicts "
        f"at {REJECT:g} need {images_needed(REJECT)} of them, so there are no verdicts: hold out "
        "more images (data.validation_share), or allow more false alarms (--reject)"
    )


def _map_paths(batch: Batch) -> list[Path]:
    """Names the files of the maps of a batch, relative to the run folder."""
    paths = []
    for path, defect, index in zip(batch.path, batch.defect, batch.index.tolist(), strict=True):
        folder = file_name(defect, LONGEST_PART)
        stem = file_name(Path(path).stem, LONGEST_PART)
        paths.append(Path("maps") / folder / f"{index:05d}-{stem}.png")
    return paths


def _nearest_patch(nearest: Tensor | None, i: int, training_paths: Sequence[str]) -> str | None:
    if nearest is None:
        return None
    image, row, column = nearest[i].tolist()
    return f"{training_paths[image]}@{row},{column}"


def _ignored_pixels(batch: Batch, i: int) -> Tensor | None:
    if batch.ignore is None:
        return None
    return batch.ignore[i].cpu()


def _area(map: Tensor, threshold: Threshold | None) -> float | None:
    """Returns the share of the pixels above the threshold for pixels."""
    if threshold is None or threshold.pixel is None or not map.numel():
        return None
    return float((map > threshold.pixel).double().mean())


def _own_pixel_metrics(map: Tensor, mask: Tensor) -> dict[str, float]:
    """Returns the pixel metrics of one image; none if its outline is empty or the whole image."""
    if not bool(mask.any()) or bool(mask.all()):
        return {}
    curve = curve_of(map.flatten(), mask.flatten().float())
    return {"pixel_auroc": auroc(curve), "pixel_ap": average_precision(curve)}


def _gather(recorded: list[_Recorded], trainer: Trainer) -> list[_Recorded]:
    """Gathers the records of all processes on the first; returns none on the others."""
    if world_size() == 1:
        return recorded
    parts: list[Any] | None = [None] * world_size() if trainer.is_global_zero else None
    dist.gather_object(recorded, parts)
    return list(chain.from_iterable(parts or []))
