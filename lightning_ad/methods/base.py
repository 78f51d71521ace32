"""The base of all methods: an image in, a map and a score out."""

import os
from collections.abc import Sequence
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.dataset import AnomalyDataset
from lightning_ad.data.sample import GOOD, Batch, Prediction
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.data.tiling import Tiles
from lightning_ad.errors import UsageError, WeightsError, in_one_line
from lightning_ad.evaluation import catalogue
from lightning_ad.evaluation.anomaly_metrics import KINDS, AnomalyMetrics
from lightning_ad.evaluation.curve import curve_of
from lightning_ad.evaluation.evaluator import Evaluators
from lightning_ad.evaluation.functional import auroc
from lightning_ad.evaluation.thresholds import Calibration
from lightning_ad.features.maps import hide
from lightning_ad.features.weights import check_finite, skip_weights
from lightning_ad.methods.dynamic_buffers import register_dynamic_buffer
from lightning_ad.methods.finite import check_scores, naming_images
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.methods.held_out import HeldOutScores
from lightning_ad.methods.one_fit import check_unused
from lightning_ad.methods.run_settings import RunSettings
from lightning_ad.methods.suspects import Suspect
from lightning_ad.methods.tiled_scoring import score_by_tiles, tiles_together

GIVE_DATA = "give the data module to the trainer, trainer.fit(model, datamodule=data)"
EARLIER = "this checkpoint was written by an earlier version of lightning_ad; train again"


class AnomalyModule(LightningModule):
    """Base of all methods: evaluation, calibration and checks live here once.

    A method with a loss derives from `LearnedModule`, one that only keeps a summary of the training
    images from `FitOnlyModule`.

    Attributes:
        synthesis: the synthetic anomalies that the loader draws for training, or None.
        validation_synthesis: those that it lays on held-out good images
            (`data.validation_anomalies`).
        image_multiple: height and width of the image must be multiples of this.
        precisions: values of `trainer.precision` with which the method has been tried.
        one_thread_per_image: on a CPU, `forward` gives each image of a batch its own thread.
        memory_bytes: that a fit may hold of the training images; None for no limit.
        has_localization: maps say where an anomaly is; otherwise they only repeat the score.
        run_settings: what the run asks for.
        tiles: the tiles by which images are scored (`data.tile`); None if they go through whole.
        trained_images: number of images that the method has learned from.
        training_paths: the files of the images that `Prediction.nearest` counts.
        suspects: all training images, the most suspicious first; None if they were not scored.
        seconds_by_stage: what the stages of the last fit took, if the method measures it.
        calibration: scores of held-out images; empty without a validation set.
        test_metrics: values of the last test, by name.
    """

    synthesis: Synthesis | None = None
    validation_synthesis: Synthesis = Synthesis().held_out()
    image_multiple: int = 1
    precisions: tuple[str, ...] = ("32-true", "bf16-mixed", "16-mixed")
    one_thread_per_image: bool = False
    has_localization: bool = True
    memory_bytes: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.run_settings = RunSettings()
        self.tiles: Tiles | None = None
        self.trained_images = 0
        self.training_paths: Sequence[str] = ()
        self.suspects: Sequence[Suspect] | None = None
        self.seconds_by_stage: dict[str, float] = {}
        self.calibration = Calibration.empty()
        self.metrics = AnomalyMetrics()
        self.evaluators = Evaluators(catalogue.EVALUATORS, taken=catalogue.METRIC_NAMES)
        self.test_metrics: dict[str, float] = {}
        self._held_out = HeldOutScores()

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Scores images [B, 3, H, W] in [0, 1], RGB, not normalised.

        Args:
            image: filled where it is ignored (`data.ignoring`).
            ignore: bool [B, H, W], where no score may come from (`maps.hide`); None for nowhere.

        Raises:
            NotFittedError: before anything was learned.
        """
        raise NotImplementedError

    def stages(self, plan: Plan) -> list[Stage]:
        """Returns the memory that each stage of a run takes, the test last; empty if not known."""
        return []

    def chi_square_threshold(self, reject: float) -> float | None:
        """Returns the score that a good image exceeds with a probability of `reject`.

        None if the distribution of the scores is not known.
        """
        return None

    @property
    def compile_targets(self) -> list[nn.Module]:
        """The networks that are worth compiling (`--compile true`)."""
        return []

    def configure_run(self, settings: RunSettings, extend: dict[str, Any] | None = None) -> None:
        """Takes what a run asks for; once, before the trainer runs. Without it, the defaults hold.

        Args:
            settings: of the run.
            extend: the checkpoint of a finished fit, to which the fit adds its images; None to
                start with nothing. Fit-only methods.

        Raises:
            UsageError: if the method cannot do what is asked for.
        """
        self.check_run(settings, extends=extend is not None)
        self.run_settings = settings

    def check_run(self, settings: RunSettings, extends: bool = False) -> None:
        """Raises UsageError if the method cannot do what a run asks for.

        Args:
            settings: of the run.
            extends: whether it adds images to a finished fit.
        """
        asked = {
            "--extend": extends,
            "--suspects": settings.list_suspects,
            "--trim": settings.trim > 0,
        }
        for flag, wanted in asked.items():
            if wanted:
                name = type(self).__name__
                raise UsageError(f"{flag}: {name} is trained, not fitted at once")

    @property
    def data(self) -> AnomalyDataModule | None:
        """The trainer's data module; None if it was given loaders."""
        return self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it

    @property
    def training_set(self) -> AnomalyDataset:
        """The data set that the trainer's loader of training images reads.

        Raises:
            UsageError: if it is not one of an `AnomalyDataModule`.
        """
        images = getattr(self.trainer.train_dataloader, "dataset", None)
        if not isinstance(images, AnomalyDataset):
            raise UsageError(
                f"{type(self).__name__} learns from the images of an AnomalyDataModule, and the "
                f"loader gives {type(images).__name__}: {GIVE_DATA}"
            )
        return images

    @property
    def tiles_per_image(self) -> int:
        """Rows of the training and validation sets that belong to one image: its tiles, or 1."""
        return 1 if self.tiles is None else len(self.tiles)

    @property
    def batches_kept(self) -> int:
        """Batches of this process that a stopped fit has observed, and that need not be read."""
        return 0

    @property
    def seconds_before(self) -> float:
        """Seconds that the fit took before it was stopped, if its checkpoint does not say it."""
        return 0.0

    def score(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Scores images [B, 3, H, W] whole, or by the tiles of the data (`score_by`)."""
        return self.score_by(self.tiles, image, ignore)

    def score_by(
        self, tiles: Tiles | None, image: Tensor, ignore: Tensor | None = None
    ) -> Prediction:
        """Scores images [B, 3, H, W] by `forward`; by tiles, if there are any.

        By tiles, maps are blended, and the score is the largest of an image's tiles. Where an image
        is ignored, its map is as low as at its lowest pixel that is not.

        Raises:
            NotFiniteError: if a score is NaN or infinite.
        """
        if tiles is None:
            prediction = self(image, ignore)
        else:
            block = tiles_together(image.device, self.one_thread_per_image)
            scored = score_by_tiles(self, image, tiles, block, ignore)
            prediction = Prediction(*scored)  # type: ignore[arg-type]
        prediction = prediction._replace(map=hide(prediction.map, ignore))
        check_scores(prediction)
        return prediction

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **options: Any) -> Self:
        """Loads a checkpoint as Lightning does; the network's own weights file is not needed."""
        with skip_weights():
            return super().load_from_checkpoint(*args, **options)

    def register_dynamic_buffer(self, name: str, value: Tensor) -> None:
        """Registers a buffer that takes the shape of whatever is loaded into it."""
        register_dynamic_buffer(self, name, value)

    def check_image_size(self, height: int, width: int) -> None:
        """Raises UsageError if images of this size cannot be scored; names the nearest that can."""
        step = self.image_multiple
        if height % step or width % step:
            nearest = [max(step, round(side / step) * step) for side in (height, width)]
            raise UsageError(
                f"{type(self).__name__} needs an image height and width that are multiples of "
                f"{step}, got {height}x{width}: set data.image_size (or data.center_crop) to "
                f"{nearest}"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the method's name and the calibration; writes paths among the arguments as text.

        A checkpoint with paths could not be read as plain data.
        """
        arguments = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        for name, value in arguments.items():
            if isinstance(value, os.PathLike):
                arguments[name] = os.fspath(value)
        checkpoint["method"] = type(self).__name__
        checkpoint["calibration"] = self.calibration.state()
        checkpoint["trained_images"] = self.trained_images

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the calibration and the number of training images.

        Raises:
            WeightsError: for a checkpoint of another method or of an earlier version, or with
                values that are not finite.
        """
        own = type(self).__name__
        other = checkpoint.get("method", "something else")
        if own != other:
            raise WeightsError(
                f"this is a checkpoint of {other}, not of {own}; load it with {other}"
            )
        if not isinstance(checkpoint["calibration"], dict):
            raise WeightsError(EARLIER)
        check_finite(checkpoint.get("state_dict", {}), "the learned values in the checkpoint")
        check_finite(checkpoint["calibration"], "the held-out scores in the checkpoint")
        self.calibration = Calibration.of_state(checkpoint["calibration"])
        self.trained_images = int(checkpoint.get("trained_images", 0))

    def load_learned(self, checkpoint: dict[str, Any]) -> None:
        """Takes what was learned from a checkpoint of this method.

        Raises:
            WeightsError: for a checkpoint of another method, or one that does not fit this one.
        """
        try:
            self.on_load_checkpoint(checkpoint)
            self.load_state_dict(checkpoint["state_dict"])
        except KeyError as error:
            raise WeightsError(
                f"this is not a whole checkpoint of {type(self).__name__}: it has no {error}"
            ) from error
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise WeightsError(
                f"the checkpoint does not fit {type(self).__name__} with these arguments: "
                f"{in_one_line(error)}"
            ) from error

    def setup(self, stage: str) -> None:
        """Checks that the method can work with the trainer and the data.

        Raises:
            UsageError: for an image size or a precision that the method cannot work with, or a
                trainer that was used before.
        """
        if stage == "fit":
            check_unused(self.trainer, self)
        if self.trainer.precision not in self.precisions:
            raise UsageError(
                f"{type(self).__name__} does not run with trainer.precision "
                f"{self.trainer.precision}; set it to one of {', '.join(self.precisions)}"
            )
        if self.data is not None:
            self.tiles = self.data.tiles
            self.check_image_size(*self.data.input_size)

    def on_train_start(self) -> None:
        """Forgets the calibration of an earlier fit.

        Raises:
            UsageError: if loaders were given that do not load what the method learns from.
        """
        self._check_loader()
        self.calibration = Calibration.empty()

    def _check_loader(self) -> None:
        if self.data is not None:
            return
        images = self.training_set
        if self.synthesis is not None and images.synthesis is None:
            raise UsageError(
                f"{type(self).__name__} learns from synthetic anomalies, and the loader draws "
                f"none: {GIVE_DATA}"
            )
        if images.tiles is not None:
            raise UsageError(f"the loader gives tiles of images: {GIVE_DATA}")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores held-out images, and those on which the loader lays a synthetic anomaly."""
        batch = batch.without_padding()
        if batch.ignore is not None:  # a tile may be ignored everywhere
            batch = batch.select(~batch.ignore.flatten(1).all(1))
        if not len(batch) or self.trainer.sanity_checking:
            return
        with naming_images(batch.path):
            self._hold_out(batch.image, batch.label, batch.index, batch.ignore)
        good = batch.select(batch.label == 0)
        if len(good) and self.data is not None and self.data.validation_anomalies:
            self._hold_out_anomalies(good)

    def _hold_out_anomalies(self, good: Batch) -> None:
        """Scores good images with synthetic anomalies, if these left a mark on them."""
        anomalous, mask = self.with_anomalies(good)
        rows = mask.flatten(1).any(1)
        if not bool(rows.any()):
            return
        ignore = None if good.ignore is None else good.ignore[rows]
        self._hold_out(anomalous[rows], good.label[rows] + 1, good.index[rows], ignore)

    def with_anomalies(self, good: Batch) -> tuple[Tensor, Tensor]:
        """Returns held-out good images with synthetic anomalies, and their masks.

        Where an image is ignored, it has no anomaly.
        """
        _, anomalous, mask = self.validation_synthesis.apply(good.image, good.recipe)
        if good.ignore is None:
            return anomalous, mask
        return torch.where(good.ignore[:, None], good.image, anomalous), mask & ~good.ignore

    def _hold_out(self, image: Tensor, label: Tensor, index: Tensor, ignore: Tensor | None) -> None:
        prediction = self(image, ignore)
        check_scores(prediction)
        self._held_out.add(prediction, label, index // self.tiles_per_image, ignore)

    def on_validation_epoch_end(self) -> None:
        """Calibrates p-values and thresholds by the held-out images of all processes.

        Logs `validation_score`, the mean score of the good ones, and `validation_AUROC`, good
        against anomalous images, synthetic ones or those of the layout's own validation set.
        """
        if self.trainer.sanity_checking:
            return
        scores = self._held_out.gather(self.device)
        good = scores.label == 0
        self.calibration = Calibration(
            scores.score[good].sort().values,
            scores.maximum[good].sort().values,
            scores.score[~good].sort().values,
            view="" if self.data is None else self.data.preprocessing,
            chosen=self.run_settings.validation_used_for_selection,
        )
        if len(self.calibration):
            mean = self.calibration.good.mean()
            self.log("validation_score", mean, rank_zero_only=True)
        if 0 < scores.label.sum() < len(scores.label):
            area = torch.as_tensor(auroc(curve_of(scores.score, scores.label))).float()
            self.log("validation_AUROC", area, prog_bar=True, rank_zero_only=True)

    def on_test_epoch_start(self) -> None:
        """Forgets an earlier test, and begins one with the kinds of defect of the data."""
        kinds: Sequence[str] = KINDS
        if self.data is not None:
            defects = {sample.defect for sample in self.data.samples["test"]}
            kinds = [GOOD, *sorted(defects - {GOOD})]
        self.metrics.begin(self.run_settings.metrics_gb, kinds)
        self.evaluators.reset()

    def test_step(  # type: ignore[override]  # callbacks get the prediction
        self, batch: Batch, batch_idx: int
    ) -> Prediction | None:
        """Scores a batch and counts it; rows that only fill it up are left out of the result."""
        batch = batch.without_padding()
        if not len(batch):
            return None
        with naming_images(batch.path):
            prediction = self.score(batch.image, batch.ignore)
        self.metrics.update(
            prediction.map,
            prediction.score,
            batch.mask,
            batch.label,
            self._kinds_of(batch),
            batch.regions,
            batch.ignore,
        )
        self.evaluators.update(batch, prediction)
        return prediction

    def _kinds_of(self, batch: Batch) -> Tensor | None:
        """Returns each defect's place in `metrics.kinds`; None if one is not among them."""
        kinds = self.metrics.kinds
        if not set(batch.defect) <= set(kinds):
            return None
        places = [kinds.index(defect) for defect in batch.defect]
        return torch.tensor(places, device=batch.label.device)

    def on_test_epoch_end(self) -> None:
        """Computes the metrics of all processes, and logs them."""
        self.test_metrics = {**self.metrics.compute(), **self.evaluators.compute()}
        self.log_dict(self.test_metrics)

    def predict_step(  # type: ignore[override]
        self, batch: Batch | Tensor | Sequence[Tensor], batch_idx: int
    ) -> Prediction:
        """Scores a batch, without the rows that only fill it up.

        Args:
            batch: of an `AnomalyDataModule`; or images [B, 3, H, W] in [0, 1] of any other loader,
                alone or before their labels.
            batch_idx: not used.

        Raises:
            UsageError: if it is something else.
        """
        if not isinstance(batch, Batch):
            return self.score(_images_of(batch))
        batch = batch.without_padding()
        with naming_images(batch.path):
            return self.score(batch.image, batch.ignore)


def _images_of(batch: object) -> Tensor:
    """Returns the images of a batch of a loader that is not ours."""
    images = batch[0] if isinstance(batch, list | tuple) and batch else batch
    got = f"a {type(images).__name__}"
    if isinstance(images, Tensor):
        got = f"{images.dtype} {list(images.shape)}"
        is_image = images.is_floating_point() and images.ndim == 4 and images.shape[1] == 3
        if is_image and bool(((images >= 0) & (images <= 1)).all()):
            return images
        if is_image:
            got += f" from {float(images.min()):g} to {float(images.max()):g}"
    raise UsageError(
        f"expected images, float [B, 3, H, W] in [0, 1] and not normalised, got {got}; "
        "AnomalyDataModule and lightning_ad.load read files so"
    )
