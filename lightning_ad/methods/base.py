"""What every method is to the rest of the program: an image in, a map and a score out."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_ad.data.sample import GOOD, Batch, Prediction
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.data.tiling import Tiles
from lightning_ad.errors import UsageError, WeightsError
from lightning_ad.evaluation import AnomalyMetrics, auroc, curve_of
from lightning_ad.evaluation.thresholds import Calibration
from lightning_ad.features.maps import hide
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.methods.tiled_scoring import score_by_tiles, tiles_together
from lightning_ad.system.distributed import gather_rows

EARLIER = "this checkpoint was written by an earlier version of lightning_ad; train again"


class Suspect(NamedTuple):
    """A training image, with its score as though it had not been in the fit."""

    path: str
    score: float
    trimmed: bool


class AnomalyModule(LightningModule):
    """Base of all methods: evaluation, calibration and checks live here once.

    A method with a loss derives from `LearnedModule`, one that only keeps a summary of the training images from
    `FitOnlyModule`.

    Attributes:
        synthesis: the synthetic anomalies that the loader is to draw for training, or None.
        validation_synthesis: those that it is to lay on held-out good images (`data.validation_anomalies`).
        image_multiple: height and width of the image must be multiples of this.
        precisions: values of `trainer.precision` under which the method has been tried.
        training_paths: the files of the images that `Prediction.nearest` counts.
        suspects: all training images, the most suspicious first; None where they were not scored.
        tiles: by which images are scored, as the data say (`data.tile`); None where they go through whole.
        trained_images: how many images what was learned is of.
        one_thread_per_image: on a CPU, `forward` gives each image of a batch a thread of its own.
        has_localization: maps say where; else they have one value, the score.
        validation_used_for_selection: held-out images choose the epoch, the end or the learning rate.
        calibration: scores of held-out images; empty where there is no validation set.
    """

    synthesis: Synthesis | None = None
    validation_synthesis: Synthesis = Synthesis().held_out()
    image_multiple: int = 1
    precisions: tuple[str, ...] = ("32-true", "bf16-mixed", "16-mixed")
    training_paths: Sequence[str] = ()
    suspects: Sequence[Suspect] | None = None
    tiles: Tiles | None = None
    trained_images: int = 0
    one_thread_per_image: bool = False
    has_localization: bool = True
    validation_used_for_selection: bool = False
    calibration: Calibration

    def __init__(self) -> None:
        super().__init__()
        self.metrics = AnomalyMetrics()
        self.calibration = Calibration.empty()
        self._validation_scores: list[Tensor] = []

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Scores images [B, 3, H, W] in [0, 1], RGB, not normalised.

        Args:
            image: filled where it is ignored (`data.ignoring`).
            ignore: bool [B, H, W], where no score may come from (`maps.hide`); None for nowhere.

        Raises:
            NotFittedError: before anything was learned.
        """
        raise NotImplementedError

    def score(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Scores images [B, 3, H, W] by `forward`, or by their `tiles`.

        Then maps are blended, and the score is the largest of an image's tiles. Where an image is ignored, its map is
        as low as at its lowest pixel that is not.
        """
        if self.tiles is None:
            prediction = self(image, ignore)
        else:
            block = tiles_together(image.device, self.one_thread_per_image)
            prediction = Prediction(*score_by_tiles(self, image, self.tiles, block, ignore))
        return prediction._replace(map=hide(prediction.map, ignore))

    def stages(self, plan: Plan) -> list[Stage]:
        """The memory that each stage of a run takes, the test last; empty if that is not known."""
        return []

    def chi_square_threshold(self, reject: float) -> float | None:
        """The score that a good image exceeds with a probability of `reject`, where a method knows; None elsewhere."""
        return None

    @property
    def tiles_per_image(self) -> int:
        """Rows of the training and validation sets that are of one image: its tiles, or 1."""
        return 1 if self.tiles is None else len(self.tiles)

    @property
    def compile_targets(self) -> list[nn.Module]:
        """The networks that torch.compile is worth while for (`--compile true`)."""
        return []

    def register_dynamic_buffer(self, name: str, value: Tensor) -> None:
        """A buffer whose shape is known only after a fit, and which takes the shape of what is loaded."""
        register_dynamic_buffer(self, name, value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says whose checkpoint it is, and keeps the calibration with it."""
        checkpoint["method"] = type(self).__name__
        checkpoint["calibration"] = self.calibration.state()
        checkpoint["trained_images"] = self.trained_images

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises WeightsError for a checkpoint of another method."""
        own, other = type(self).__name__, checkpoint.get("method", "something else")
        if own != other:
            raise WeightsError(
                f"this is a checkpoint of {other}, not of {own}; load it with {other}"
            )
        if not isinstance(checkpoint["calibration"], dict):
            raise WeightsError(EARLIER)
        self.calibration = Calibration(**checkpoint["calibration"])
        self.trained_images = checkpoint.get("trained_images", 0)

    def load_learned(self, checkpoint: dict[str, Any]) -> None:
        """Takes what was learned from a checkpoint of this method.

        Raises:
            WeightsError: for a checkpoint of another method.
        """
        self.on_load_checkpoint(checkpoint)
        self.load_state_dict(checkpoint["state_dict"])

    def setup(self, stage: str) -> None:
        """Checks that the wishes of the run can be met.

        Raises:
            UsageError: for an image size or a precision that the method cannot work with.
        """
        if self.trainer.precision not in self.precisions:
            raise UsageError(
                f"{type(self).__name__} does not run with trainer.precision {self.trainer.precision}; "
                f"set it to one of {', '.join(self.precisions)}"
            )
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.tiles = data.tiles
            self.check_image_size(*data.input_size)

    def check_image_size(self, height: int, width: int) -> None:
        """Raises UsageError where images of this size cannot be scored, and names the nearest that can."""
        step = self.image_multiple
        if height % step or width % step:
            nearest = [max(step, round(side / step) * step) for side in (height, width)]
            raise UsageError(
                f"{type(self).__name__} needs an image height and width that are multiples of {step}; "
                f"{height}x{width} came. Set data.image_size (or data.center_crop) to {nearest}"
            )

    def on_train_start(self) -> None:
        """Forgets the calibration of an earlier fit."""
        self.calibration = Calibration.empty()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores held-out images, and those with a synthetic anomaly laid on where the loader drew some."""
        batch = batch.without_padding()
        if batch.ignore is not None:  # of an image by tiles, some may be ignored everywhere
            batch = batch.select(~batch.ignore.flatten(1).all(1))
        if not len(batch) or self.trainer.sanity_checking:
            return
        self._keep_scores(batch.image, batch.label, batch.index, batch.ignore)
        good = batch.select(batch.label == 0)
        if getattr(
            getattr(self.trainer, "datamodule", None), "validation_anomalies", False
        ) and len(good):
            anomalous, mask = self.with_anomalies(good)
            if bool((rows := mask.flatten(1).any(1)).any()):
                ignore = None if good.ignore is None else good.ignore[rows]
                self._keep_scores(anomalous[rows], good.label[rows] + 1, good.index[rows], ignore)

    def with_anomalies(self, good: Batch) -> tuple[Tensor, Tensor]:
        """Held-out good images with their synthetic anomalies, none where they are ignored, and the masks."""
        _, anomalous, mask = self.validation_synthesis.apply(good.image, good.recipe)
        if good.ignore is None:
            return anomalous, mask
        return torch.where(good.ignore[:, None], good.image, anomalous), mask & ~good.ignore

    def _keep_scores(
        self, image: Tensor, label: Tensor, index: Tensor, ignore: Tensor | None
    ) -> None:
        prediction, number = self(image, ignore), index // self.tiles_per_image
        columns = (prediction.score, label, number, hide(prediction.map, ignore).flatten(1).amax(1))
        self._validation_scores.append(torch.stack([column.float() for column in columns], 1))

    def on_validation_epoch_end(self) -> None:
        """Keeps the scores of the held-out images of all processes; they calibrate p-values and thresholds.

        Logs the mean `validation_score` of the good ones, and `validation_AUROC` of good against anomalous images,
        synthetic or of the layout's own validation set.
        """
        if self.trainer.sanity_checking:
            return
        rows = gather_rows(
            torch.cat([torch.empty(0, 4, device=self.device), *self._validation_scores])
        )
        self._validation_scores.clear()
        score, maximum, label = (column.cpu() for column in _by_image(rows))
        good = label == 0
        sorted_scores = (s.sort().values for s in (score[good], maximum[good], score[~good]))
        data = getattr(self.trainer, "datamodule", None)
        self.calibration = Calibration(
            *sorted_scores,
            view="" if data is None else data.view,
            chosen=self.validation_used_for_selection,
        )
        if len(self.calibration):
            self.log("validation_score", self.calibration.good.mean(), rank_zero_only=True)
        if 0 < label.sum() < len(label):
            area = auroc(curve_of(score, label))
            self.log(
                "validation_AUROC",
                torch.as_tensor(area).float(),
                prog_bar=True,
                rank_zero_only=True,
            )

    def on_test_epoch_start(self) -> None:
        """Forgets an earlier test, and learns the kinds of defect."""
        self.metrics.reset()
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.metrics.kinds = [GOOD, *sorted({s.defect for s in data.samples["test"]} - {GOOD})]

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction | None:
        """Scores a batch and counts it; rows that only fill it up are left out, of the result too."""
        batch = batch.without_padding()
        if not len(batch):
            return None
        prediction = self.score(batch.image, batch.ignore)
        kind = None
        if {*batch.defect} <= {*self.metrics.kinds}:
            kind = torch.tensor(
                [self.metrics.kinds.index(d) for d in batch.defect], device=batch.label.device
            )
        self.metrics.update(
            prediction.map,
            prediction.score,
            batch.mask,
            batch.label,
            kind,
            batch.regions,
            batch.ignore,
        )
        return prediction

    def on_test_epoch_end(self) -> None:
        """Logs the metrics of the design under their names."""
        self.log_dict(self.metrics.compute())

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Scores a batch, but for rows that only fill it up."""
        batch = batch.without_padding()
        return self.score(batch.image, batch.ignore)


def _by_image(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, highest values of the map and labels of images, from rows [n, 4] of score, label, number and highest.

    The largest of each image counts.
    """
    images, place = rows[:, 1:3].unique(dim=0, return_inverse=True)
    columns = rows[:, [0, 3]]
    place = place[:, None].expand(-1, 2)
    score, maximum = (
        columns.new_zeros(len(images), 2)
        .scatter_reduce(0, place, columns, "amax", include_self=False)
        .T
    )
    return score, maximum, images[:, 0]


def register_dynamic_buffer(module: nn.Module, name: str, value: Tensor) -> None:
    """A buffer whose shape is known only after a fit, and which takes the shape of what is loaded."""
    module.register_buffer(name, value)
    module.register_load_state_dict_pre_hook(partial(_allocate, name))


def _allocate(
    name: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Gives a buffer the shape of what is about to be loaded into it."""
    if (incoming := state.get(prefix + name)) is not None:
        setattr(module, name, torch.empty_like(incoming, device=getattr(module, name).device))
