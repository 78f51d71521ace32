"""Thresholds: with a guarantee, from p-values against held-out good parts, or as others choose them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_ad.errors import UsageError
from lightning_ad.evaluation.curve import curve_of, reject_nan
from lightning_ad.evaluation.functional import f1_max

_ROUNDING = 1e-9


def conformal_p_values(scores: Tensor, calibration: Tensor) -> Tensor:
    """Split-conformal p-values: (1 + number of calibration scores >= score) / (M + 1).

    If a new good part and the M calibration parts are exchangeable, and the model never saw any of them, then
    P(p <= a) <= a for every a in (0, 1): calling p <= 0.05 anomalous rejects at most 5 % of good parts, on
    average over calibration sets, whatever the distribution of the scores. No p-value is below 1 / (M + 1): a
    level of 5 % needs at least 19 calibration parts.

    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; for outliers, Bates, Candès,
    Lei, Romano and Sesia, Testing for outliers with conformal p-values, Annals of Statistics 51 (1), 2023.

    Args:
        scores: float [N], higher is more anomalous.
        calibration: float [M], M >= 1, scores of good parts that were not trained on.

    Returns:
        float64 [N] in (0, 1], in CPU memory. (In float32, 1 / 20 would be more than 0.05.)

    Raises:
        UsageError: there is no calibration score.
        UserError: a score is NaN.
    """
    if calibration.numel() == 0:
        raise UsageError(
            "p-values need the scores of at least one held-out good image, but there are none. "
            "Hold some out of training with --data.validation holdout."
        )
    reject_nan(scores, "scores")
    reject_nan(calibration, "calibration scores")
    ordered = calibration.detach().cpu().float().flatten().sort().values
    below = torch.searchsorted(ordered, scores.detach().cpu().float().contiguous())
    return (1 + len(ordered) - below).double() / (len(ordered) + 1)


def images_needed(reject: float) -> int:
    """How many held-out good images a conformal threshold takes that rejects at most this share of good parts.

    Raises:
        UsageError: the share is outside (0, 1).
    """
    if not 0 < reject < 1:
        raise UsageError(
            f"the share of good parts that may be rejected lies between 0 and 1; {reject:g} came"
        )
    return max(1, math.ceil(1 / reject - _ROUNDING) - 1)


def conformal_threshold(calibration: Tensor, reject: float) -> float:
    """The score above which `conformal_p_values` is at most `reject`: at most that share of good parts lies above it.

    Args:
        calibration: float [M], scores of good parts that were not trained on.
        reject: the share of good parts that may be called anomalous, in (0, 1).

    Raises:
        UsageError: the share is outside (0, 1), or there are fewer than `images_needed` scores.
        UserError: a score is NaN.
    """
    count = calibration.numel()
    if count < (needed := images_needed(reject)):
        remedy = "Hold some out of training: --data.validation holdout"
        if count:
            possible = f"With {count}, {1 / (count + 1):.2g} is the least that can be asked for."
            remedy = f"{possible} Hold out more of them (data.validation_share), or allow for more (--reject)"
        raise UsageError(
            f"to reject at most {reject:g} of good parts takes the scores of {needed} held-out good images, and there "
            f"are {count}. {remedy}"
        )
    reject_nan(calibration, "calibration scores")
    allowed = (
        math.floor(reject * (count + 1) + _ROUNDING) - 1
    )  # calibration scores that may lie as high
    return float(calibration.detach().cpu().float().flatten().sort(descending=True).values[allowed])


def quantile_threshold(calibration: Tensor, reject: float) -> float:
    """The score that a share `reject` of the calibration scores lies above, without a promise for other parts.

    The (1 - reject) quantile by linear interpolation. With few scores it rejects more of new good parts than that.

    Args:
        calibration: float [M], M >= 1, scores of good parts that were not trained on.
        reject: the share, in (0, 1).

    Raises:
        UsageError: the share is outside (0, 1), or there is no score.
        UserError: a score is NaN.
    """
    images_needed(reject)
    if not calibration.numel():
        raise UsageError(
            "--threshold quantile needs held-out good images: add --data.validation holdout"
        )
    reject_nan(calibration, "calibration scores")
    return float(calibration.detach().cpu().double().flatten().quantile(1 - reject))


def f1_threshold(good: Tensor, anomalous: Tensor) -> float:
    """The score halfway below the lowest one that is called anomalous where F1 on validation images is best.

    Where that is all of them, just below it.

    Args:
        good: float [M], scores of held-out good images.
        anomalous: float [A], scores of held-out anomalous images, real or synthetic; never of test images.

    Raises:
        UsageError: there are no good or no anomalous scores.
        UserError: a score is NaN.
    """
    if not good.numel() or not anomalous.numel():
        raise UsageError(
            f"--threshold f1 needs labelled validation images; there are {good.numel()} good and {anomalous.numel()} "
            "anomalous ones. Add --data.validation given, where the data set has some; or, for synthetic anomalies, "
            "--data.validation holdout --data.validation_anomalies true"
        )
    scores = torch.cat([t.detach().cpu().float().flatten() for t in (good, anomalous)])
    labels = torch.cat([torch.zeros(good.numel()), torch.ones(anomalous.numel())])
    lowest = f1_max(curve_of(scores, labels))[1]
    below = scores[scores < lowest]
    return (
        math.nextafter(lowest, -math.inf) if not len(below) else (lowest + float(below.max())) / 2
    )


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
        return {
            name: part.cpu() if isinstance(part, Tensor) else part
            for name, part in vars(self).items()
        }


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
        return Threshold(
            known, None, method, f"{per_cent} of good parts, were distances chi-square distributed"
        )
    if method == "quantile":
        both = (
            quantile_threshold(scores, share) for scores in (calibration.good, calibration.maxima)
        )
        return Threshold(
            *both,
            method,
            f"the {1 - share:g} quantile of {held} held-out good images; of new ones, more lie above it",
        )
    if method is None and reject is None and held < needed:
        return None
    image, pixel = (
        conformal_threshold(scores, share) for scores in (calibration.good, calibration.maxima)
    )
    basis = f"at most {per_cent} of good parts, on average, by {held} held-out good images"
    if calibration.chosen:
        basis = f"about {per_cent} of good parts, by {held} held-out good images; they had a part in the training, so "
        basis += "this is no promise"
    return Threshold(image, pixel, "conformal", basis)
