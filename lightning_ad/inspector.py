"""Loads a finished run and inspects images with it: no data set, no weights file, no network.

inspector = load("runs/patchcore-mvtec-bottle")
result = inspector("part.png")
result.score, result.anomalous, result.map
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from inspect import isclass
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from lightning_ad.data.geometry import Geometry
from lightning_ad.data.ignoring import fill
from lightning_ad.data.reading import (
    FULL_DEPTH,
    Bits,
    ImageLike,
    as_image,
    check_same_size,
    read_nonzero,
    verify,
)
from lightning_ad.data.sample import Prediction
from lightning_ad.data.tiling import Tiles
from lightning_ad.errors import DataError, UsageError, WeightsError, in_one_line
from lightning_ad.evaluation.thresholds import (
    NUMBER,
    Calibration,
    Threshold,
    choose,
    conformal_p_values,
)
from lightning_ad.features.weights import read_state, skip_weights
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.system.checkpoints import CONFIG_KEY
from lightning_ad.system.earlier_settings import stored_config
from lightning_ad.system.run_folder import finished_checkpoint

BATCH_SIZE = 8  # images of a list that are scored together
Images = list[ImageLike] | tuple[ImageLike, ...]
TOUCHING = np.ones((3, 3), dtype=bool)  # pixels that touch by a corner are of one region
HALF_PRECISION = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
IGNORED_FILE = "file of ignored regions"


class Region(NamedTuple):
    """A connected region of the mask.

    Attributes:
        box: left, top, right and bottom in pixels of the given image; right and bottom lie outside.
        area: number of pixels.
        peak: the highest value of the map in it.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float


@dataclass(frozen=True)
class Result:
    """What an `Inspector` finds in an image of h x w pixels.

    Attributes:
        score: the image's raw score; higher is more anomalous.
        p_value: probability that a good image scores at least this high, in (0, 1]; None if the
            run held out no good images.
        anomalous: whether the score is above the threshold; None if the run has no threshold.
        map: float32 [h, w], the raw score of each pixel; NaN where the run's crop cuts the image
            off. For a method without localization, every pixel has the image's score.
        mask: bool [h, w], where the map is above the threshold of pixels; None if there is none.
    """

    score: float
    p_value: float | None
    anomalous: bool | None
    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None

    @property
    def regions(self) -> list[Region]:
        """The connected regions of the mask, the highest peak first; empty without a mask."""
        if self.mask is None:
            return []
        labels, _ = ndimage.label(self.mask, TOUCHING)
        found = []
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
            values = self.map[rows, columns][labels[rows, columns] == number]
            box = (columns.start, rows.start, columns.stop, rows.stop)
            found.append(Region(box, values.size, float(values.max())))
        return sorted(found, key=lambda region: -region.peak)


@dataclass(frozen=True)
class FinishedRun:
    """A checkpoint and the configuration inside it.

    Attributes:
        checkpoint: the file.
        state: its content.
        config: everything needed to repeat the run, settings of later versions included.
    """

    checkpoint: Path
    state: dict[str, Any]
    config: dict[str, Any]

    @classmethod
    def read(cls, target: str | os.PathLike[str]) -> Self:
        """Reads a run's folder or a .ckpt file.

        Raises:
            UsageError: if there is no finished run.
            WeightsError: if the file is damaged, or not a checkpoint of lightning_ad.
        """
        checkpoint = finished_checkpoint(Path(target))
        state = read_state(checkpoint)
        return cls(checkpoint, state, stored_config(state.get(CONFIG_KEY), checkpoint))

    def module(self) -> AnomalyModule:
        """Builds the method with what it has learned.

        Raises:
            UsageError: if the method is of a package that has not been imported.
            WeightsError: if the checkpoint does not fit the method.
        """
        method = _method_class(self.config["model"]["class_path"])
        arguments = dict(self.config["model"].get("init_args") or {})
        for training_only in ("optimizer", "lr_scheduler"):
            arguments.pop(training_only, None)
        try:
            with skip_weights():
                module = method(**arguments)
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            raise WeightsError(
                f"{self.checkpoint}: {method.__name__} cannot be made of the arguments in it: "
                f"{in_one_line(error)}"
            ) from error
        module.load_learned(self.state)
        return module


@dataclass(frozen=True)
class IgnoredRegion:
    """The region that a run ignores in all of its images.

    Attributes:
        path: the file that it was read from.
        mask: bool [h, w], true where an image of h x w pixels is ignored.
    """

    path: str
    mask: Tensor

    @classmethod
    def read(cls, path: str) -> Self:
        """Reads the file of a region.

        Raises:
            DataError: if it cannot be read.
        """
        return cls(path, read_nonzero(path, verify(path, IGNORED_FILE), IGNORED_FILE))

    def of_image(self, image: Tensor) -> Tensor:
        """Returns the region in an image [3, h, w].

        Raises:
            DataError: if the image has another size, as in the run's test.
        """
        found = (self.mask.shape[0], self.mask.shape[1])
        expected = (image.shape[-2], image.shape[-1])
        check_same_size(self.path, found, expected, IGNORED_FILE)
        return self.mask


class Inspector:
    """Scores images by a finished method, exactly as the run's test did.

    Args:
        module: the fitted or trained method.
        geometry: how an image comes to the size that the method sees.
        tiles: the tiles by which images are scored; None if they go through whole.
        method: how the threshold is chosen (`evaluation.thresholds.choose`), or the threshold.
        reject: the share of good parts that may be called anomalous, in (0, 1), or None.
        precision: of the run's trainer; its half precision is used here too.
        ignored: what the run ignored in each image; None for nothing.
        bits: of the values in files and arrays of 16 bits (`data.bits` of the run).
        unknown: what the run ignored that cannot be ignored here, in words: its held-out images are
            not like the images here then, and give no p-values and no threshold.

    Raises:
        UsageError: if `method` needs held-out images that the run does not have.
    """

    def __init__(
        self,
        module: AnomalyModule,
        geometry: Geometry,
        tiles: Tiles | None = None,
        method: Any = None,
        reject: float | None = None,
        precision: str = "32-true",
        ignored: IgnoredRegion | None = None,
        unknown: str = "",
        bits: Bits = FULL_DEPTH,
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self._geometry = geometry
        self._tiles = tiles
        self._half = HALF_PRECISION.get(precision)
        self._ignored = ignored
        self._bits = bits
        self._unknown = unknown
        self._calibration = Calibration.empty() if unknown else module.calibration
        self._threshold: Threshold | None = None
        self._reject: float | None = None
        by_held_out = method != "chi2" and not isinstance(method, int | float)
        if not (unknown and by_held_out):
            chi_square = module.chi_square_threshold
            self._threshold = choose(method, reject, self._calibration, chi_square)
        if self._threshold is not None and self._threshold.method not in (NUMBER, "f1"):
            self._reject = reject

    @classmethod
    def of(cls, run: FinishedRun) -> Self:
        """Builds the inspector of a finished run; raises what `load` raises.

        Warns if the run ignored regions that are not known here.
        """
        data = run.config["data"]
        geometry = Geometry.of(data["image_size"], data["center_crop"], data["resize"])
        tiles = None
        if data["tile"] is not None:
            tiles = Tiles.of(geometry.output, data["tile"], data["tile_overlap"])
        ignored, unknown = _ignored(data)
        if unknown:
            rank_zero_warn(
                f"The run ignored regions that are not known here ({unknown}): scores are not "
                "those of its test; p-values, and a threshold by held-out images, are not available"
            )
        return cls(
            run.module(),
            geometry,
            tiles,
            run.config.get("threshold"),
            run.config.get("reject"),
            str(run.config["trainer"].get("precision") or "32-true"),
            ignored,
            unknown,
            FULL_DEPTH if data["bits"] is None else data["bits"],
        )

    @property
    def threshold(self) -> float | None:
        """The score above which an image is called anomalous; can be set, None for no verdicts."""
        return None if self._threshold is None else self._threshold.image

    @threshold.setter
    def threshold(self, score: float | None) -> None:
        threshold = None
        if score is not None:
            _check_number("threshold", score)
            threshold = Threshold(float(score), None, NUMBER, "a number that was given")
        self._threshold = threshold
        self._reject = None

    @property
    def promise(self) -> str | None:
        """What the threshold rests on, in words; None without a threshold."""
        return None if self._threshold is None else self._threshold.basis

    @property
    def reject(self) -> float | None:
        """The share of good parts that may be called anomalous; None if the threshold names none.

        Setting it chooses a conformal threshold by the run's held-out images, however the run chose
        its own; None chooses the threshold of a run that names neither a share nor a threshold.

        Raises:
            UsageError: on setting a share outside (0, 1), or one that takes more held-out images.
        """
        return self._reject

    @reject.setter
    def reject(self, share: float | None) -> None:
        if share is not None:
            _check_number("reject", share)
        if self._unknown and share is not None:
            raise UsageError(
                f"no share can be promised: the run ignored regions that are not known here "
                f"({self._unknown}), so its held-out images are not like the images here"
            )
        self._threshold = choose(None, share, self._calibration)
        self._reject = share

    def to(self, device: str | torch.device) -> Self:
        """Moves the method to a device, such as "cuda"; returns the inspector."""
        self.module.to(device)
        return self

    @overload
    def __call__(self, image: ImageLike, ignore: NDArray[np.bool_] | None = None) -> Result: ...

    @overload
    def __call__(self, image: Images, ignore: None = None) -> list[Result]: ...

    def __call__(
        self, image: ImageLike | Images, ignore: NDArray[np.bool_] | None = None
    ) -> Result | list[Result]:
        """Inspects an image, or each image of a list.

        Args:
            image: a path, a PIL image, a uint8 array [h, w, 3] or [h, w], a float tensor
                [3, h, w] in [0, 1], or a list of these.
            ignore: bool [h, w], true where the image must not matter; for a single image.

        Raises:
            DataError: if a file cannot be read, or an array is no image.
        """
        if isinstance(image, list | tuple):
            return list(self._inspect_all(image))
        if ignore is None:
            return self._inspect([as_image(image, self._bits)])[0]
        return self._inspect_around(as_image(image, self._bits), ignore)

    def _inspect_all(self, images: Sequence[ImageLike]) -> Iterator[Result]:
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE]
            yield from self._inspect([as_image(image, self._bits) for image in batch])

    def _inspect(self, images: Sequence[Tensor]) -> list[Result]:
        if self._ignored is None:
            batch = torch.stack([self._geometry.image(image) for image in images])
            return self._results(self._score(batch), images)
        return self._inspect_filled(images, [self._ignored.of_image(image) for image in images])

    def _inspect_around(self, image: Tensor, ignore: NDArray[np.bool_]) -> Result:
        ignored = torch.from_numpy(np.asarray(ignore, dtype=bool))
        if ignored.shape != image.shape[-2:]:
            raise DataError(
                f"expected ignore to have the size of its image, {list(image.shape[-2:])}, "
                f"got {list(ignored.shape)}"
            )
        if self._ignored is not None:
            ignored = ignored | self._ignored.of_image(image)
        return self._inspect_filled([image], [ignored])[0]

    def _inspect_filled(self, images: Sequence[Tensor], ignored: Sequence[Tensor]) -> list[Result]:
        """Inspects images, each bool [h, w] of `ignored` filled with the colours around it."""
        filled: list[Tensor] = []
        seen: list[Tensor] = []
        for image, region in zip(images, ignored, strict=True):
            filled.append(self._geometry.image(fill(image, region)))
            seen.append(self._geometry.mask(region))
        return self._results(self._score(torch.stack(filled), torch.stack(seen)), images)

    def _score(self, batch: Tensor, ignore: Tensor | None = None) -> Prediction:
        device = self.module.device
        if ignore is not None:
            ignore = ignore.to(device)
        with torch.inference_mode(), self._autocast():
            return self.module.score_by(self._tiles, batch.to(device), ignore)

    def _results(self, prediction: Prediction, images: Sequence[Tensor]) -> list[Result]:
        scores = prediction.score.float().cpu()
        maps = prediction.map.float().cpu()
        return [
            self._result(float(score), self._geometry.restore(map, *image.shape[-2:]))
            for score, map, image in zip(scores, maps, images, strict=True)
        ]

    def _result(self, score: float, map: Tensor) -> Result:
        p_value = None
        if len(self._calibration):
            p_value = conformal_p_values(torch.tensor([score]), self._calibration.good).item()
        anomalous = None
        mask = None
        if self._threshold is not None:
            anomalous = score > self._threshold.image
            if self._threshold.pixel is not None:
                mask = (map > self._threshold.pixel).numpy()
        return Result(score, p_value, anomalous, map.numpy(), mask)

    def _autocast(self) -> AbstractContextManager:
        if self._half is None:
            return nullcontext()
        return torch.autocast(self.module.device.type, self._half)


def load(target: str | os.PathLike[str]) -> Inspector:
    """Loads a finished run for inspecting images.

    Args:
        target: a run's folder (`runs/patchcore-mtd`, or one `version_<n>` in it) or a .ckpt file;
            it may have been moved, and the data set and the weights file may be gone.

    Raises:
        UsageError: if there is no finished run, or its method is of a package that has not been
            imported.
        WeightsError: if the file is damaged, or not a checkpoint of lightning_ad.
    """
    return Inspector.of(FinishedRun.read(target))


def _check_number(name: str, value: float) -> None:
    if not isinstance(value, Real) or math.isnan(value):
        raise UsageError(f"{name}: expected a number or None, got {value!r}")


def _ignored(data: Mapping[str, Any]) -> tuple[IgnoredRegion | None, str]:
    """Returns what a run ignored in all images, and in words what is not known of other images."""
    unknown: list[str] = []
    region = None
    path = data.get("ignore")
    value = data.get("ignore_value")
    if path is not None and Path(path).is_file():
        region = IgnoredRegion.read(path)
    elif path is not None and Path(path).is_dir():
        unknown.append(f"data.ignore {path}, a folder with one for each image")
    elif path is not None:
        unknown.append(f"data.ignore {path}, which is not there")
    if value is not None:
        unknown.append(f"data.ignore_value {value} of each image's own mask")
    return region, "; ".join(unknown)


def _method_class(class_path: str) -> type[AnomalyModule]:
    """Finds a method's class; of other packages, only those that the caller has imported."""
    module_name, _, name = class_path.rpartition(".")
    own = module_name.partition(".")[0] == "lightning_ad"
    if not own and module_name not in sys.modules:
        raise UsageError(
            f"the run was made by {class_path}, and {module_name} has not been imported: "
            f"import it first, if you know where it comes from"
        )
    try:
        found = getattr(import_module(module_name), name, None)
    except (ImportError, ValueError) as error:
        raise WeightsError(f"the run names {class_path}, which is not there") from error
    if not isclass(found) or not issubclass(found, AnomalyModule):
        raise WeightsError(f"the run names {class_path}, which is not an AnomalyModule")
    return found
