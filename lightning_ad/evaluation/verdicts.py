"""Which scores are called anomalous: the threshold of a run, by whichever method it is chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_ad.errors import UsageError
from lightning_ad.evaluation.thresholds import conformal_threshold, f1_threshold, images_needed, quantile_threshold

REJECT = 0.01  # where no share of good parts that may be rejected is named
Method = Literal["conformal", "quantile", "f1", "chi2"]


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out images; they go with the weights.

    Attributes:
        good: float32 [M], sorted, image scores of good images.
        maxima: float32 [M], sorted, the highest values of their maps.
        anomalous: float32 [A], sorted, image scores of anomalous images, real or synthetic; none where there are none.
        view: how the images were seen (`AnomalyDataModule.view`); scores of another view are not of their kind.
        chosen: whether the images had a part in what was learned, an epoch or a learning rate, so that new good images
            are not like them.
    """

    good: Tensor
    maxima: Tensor
    anomalous: Tensor
    view: str = ""
    chosen: bool = False

    @classmethod
    def empty(cls) -> "Calibration":
        """Of no images."""
        return cls(torch.empty(0), torch.empty(0), torch.empty(0))

    def __len__(self) -> int:
        return len(self.good)

    def state(self) -> dict[str, Tensor | str | bool]:
        """All by name, in main memory: what `Calibration(**state)` makes again."""
        return {name: part.cpu() if isinstance(part, Tensor) else part for name, part in vars(self).items()}


@dataclass(frozen=True)
class Threshold:
    """What is called anomalous.

    Attributes:
        image: an image is, whose score is above it.
        pixel: a pixel is, whose value in the map is above it; None where there is none.
        method: by which it was chosen.
        basis: what it rests on, in words.
    """

    image: float
    pixel: float | None
    method: str
    basis: str

    def as_dict(self) -> dict[str, Any]:
        """For metrics.json."""
        return dict(vars(self))


def choose(
    method: Method | float | None,
    reject: float | None,
    calibration: Calibration,
    chi_square: Callable[[float], float | None] = lambda share: None,
) -> Threshold | None:
    """The threshold of a run; nothing of it comes from test images.

    Args:
        method: `conformal`, `quantile`, `f1`, `chi2`, or the image threshold itself; None for `conformal` where
            enough images are held out for it.
        reject: the share of good parts that may be called anomalous, in (0, 1); None for `REJECT`.
        calibration: of the run.
        chi_square: the threshold for a share, of a method whose scores have a known distribution; None for others.

    Returns:
        None where `method` and `reject` are None and too few images are held out.

    Raises:
        UsageError: the share is outside (0, 1), or the method lacks what it needs.
    """
    share, held = REJECT if reject is None else reject, len(calibration)
    needed = images_needed(share)
    per_cent = f"{100 * share:g} %"
    if isinstance(method, int | float):
        return Threshold(float(method), None, "number", "a number that was given")
    if method == "f1":
        value = f1_threshold(calibration.good, calibration.anomalous)
        images = f"{held} good and {len(calibration.anomalous)} anomalous validation images"
        return Threshold(value, None, method, f"labels: the best F1 on {images}")
    if method == "chi2":
        if (known := chi_square(share)) is None:
            raise UsageError("--threshold chi2 is for Mahalanobis AD alone; choose conformal")
        return Threshold(known, None, method, f"{per_cent} of good parts, were distances chi-square distributed")
    if method == "quantile":
        both = (quantile_threshold(scores, share) for scores in (calibration.good, calibration.maxima))
        return Threshold(
            *both, method, f"the {1 - share:g} quantile of {held} held-out good images; of new ones, more lie above it"
        )
    if method is None and reject is None and held < needed:
        return None
    image, pixel = (conformal_threshold(scores, share) for scores in (calibration.good, calibration.maxima))
    basis = f"at most {per_cent} of good parts, on average, by {held} held-out good images"
    if calibration.chosen:
        basis = f"about {per_cent} of good parts, by {held} held-out good images; they had a part in the training, so "
        basis += "this is no promise"
    return Threshold(image, pixel, "conformal", basis)
