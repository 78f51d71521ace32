"""Thresholds: above which score an image, or a pixel, is called anomalous.

A conformal threshold keeps a promise by held-out good images; the others are chosen as elsewhere.
None looks at test images.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_ad.errors import UsageError
from lightning_ad.evaluation.checks import reject_nan
from lightning_ad.evaluation.curve import curve_of
from lightning_ad.evaluation.functional import f1_max

REJECT = 0.01  # the share of good parts that may be rejected, if none is named
ThresholdMethod = Literal["conformal", "quantile", "f1", "chi2"]
NUMBER = "number"  # the method of a threshold that was given
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out images; they are kept with the weights.

    Attributes:
        good: float32 [M], sorted, image scores of good images.
        maxima: float32 [M], sorted, the highest values of their maps.
        anomalous: float32 [A], sorted, image scores of anomalous images, real or synthetic; A may
            be 0.
        view: how the images were preprocessed; scores of images that were preprocessed differently
            cannot be compared.
        chosen: whether the images had a part in what was learned, by choosing an epoch or a
            learning rate, so that new good images are not like them.
    """

    good: Tensor
    maxima: Tensor
    anomalous: Tensor
    view: str = ""
    chosen: bool = False

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Calibration":
        """Takes the scores that `state` gave.

        Raises:
            TypeError: if they are not rows of numbers.
        """
        found = cls(**state)
        for scores in (found.good, found.maxima, found.anomalous):
            if not isinstance(scores, Tensor) or scores.ndim != 1:
                raise TypeError("expected the calibration to be rows of scores")
        return found

    @classmethod
    def empty(cls) -> "Calibration":
        """Returns a calibration of no images."""
        return cls(torch.empty(0), torch.empty(0), torch.empty(0))

    def __len__(self) -> int:
        return len(self.good)

    def state(self) -> dict[str, Tensor | str | bool]:
        """Returns all by name, in main memory: what `Calibration(**state)` makes again."""
        state = {}
        for name, part in vars(self).items():
            state[name] = part.cpu() if isinstance(part, Tensor) else part
        return state


@dataclass(frozen=True)
class Threshold:
    """The limits above which an image or a pixel is called anomalous.

    Attributes:
        image: an image is if its score is above this.
        pixel: a pixel is if its value in the map is above this; None if there is no such threshold.
        method: how it was chosen.
        basis: what it rests on, in words.
    """

    image: float
    pixel: float | None
    method: str
    basis: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the attributes by name, for metrics.json."""
        return dict(vars(self))


def conformal_p_values(scores: Tensor, calibration: Tensor) -> Tensor:
    """Returns split-conformal p-values: (1 + number of calibration scores >= score) / (M + 1).

    If a new good part and the M calibration parts are exchangeable, and the model never saw any of
    them, then P(p <= a) <= a for every a in (0, 1): calling p <= 0.05 anomalous rejects at most 5 %
    of good parts, on average over calibration sets, whatever the distribution of the scores. No
    p-value is below 1 / (M + 1): a level of 5 % needs at least 19 calibration parts.

    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; for outliers, Bates,
    Candès, Lei, Romano and Sesia, Testing for outliers with conformal p-values, Annals of
    Statistics 51 (1), 2023.

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
    ordered = _flat(calibration).sort().values
    below = torch.searchsorted(ordered, scores.detach().cpu().float().contiguous())
    count = len(ordered)
    return (1 + count - below).double() / (count + 1)


def _flat(scores: Tensor) -> Tensor:
    return scores.detach().cpu().float().flatten()


def images_needed(reject: float) -> int:
    """Returns how many held-out good images it takes to reject at most a share of good parts.

    Raises:
        UsageError: the share is outside (0, 1).
    """
    _check_share(reject)
    return max(1, math.ceil(1 / reject - _ROUNDING) - 1)


def _check_share(reject: float) -> None:
    if not 0 < reject < 1:
        raise UsageError(
            "the share of good parts that may be rejected lies between 0 and 1 (exclusive), "
            f"got {reject:g}"
        )


def conformal_threshold(calibration: Tensor, reject: float) -> float:
    """Returns the score above which `conformal_p_values` is at most `reject`.

    At most that share of good parts lies above it.

    Args:
        calibration: float [M], scores of good parts that were not trained on.
        reject: the share of good parts that may be called anomalous, in (0, 1).

    Raises:
        UsageError: the share is outside (0, 1), or there are fewer than `images_needed` scores.
        UserError: a score is NaN.
    """
    count = calibration.numel()
    _check_enough(count, reject)
    reject_nan(calibration, "calibration scores")
    as_high = math.floor(reject * (count + 1) + _ROUNDING) - 1  # how many scores may lie above
    ordered = _flat(calibration).sort(descending=True).values
    return float(ordered[as_high])


def quantile_threshold(calibration: Tensor, reject: float) -> float:
    """Returns the score that a share `reject` of the calibration scores lies above.

    It is no promise for other parts: with few scores it rejects more of new good parts than that.
    The (1 - reject) quantile by linear interpolation.

    Args:
        calibration: float [M], M >= 1, scores of good parts that were not trained on.
        reject: the share, in (0, 1).

    Raises:
        UsageError: the share is outside (0, 1), or there is no score.
        UserError: a score is NaN.
    """
    _check_share(reject)
    _check_any(calibration.numel())
    reject_nan(calibration, "calibration scores")
    return float(calibration.detach().cpu().double().flatten().quantile(1 - reject))


def f1_threshold(good: Tensor, anomalous: Tensor) -> float:
    """Returns the threshold at which F1 on validation images is best.

    It lies halfway between the lowest score that is called anomalous and the next lower one; just
    below the lowest score if all are called anomalous.

    Args:
        good: float [M], scores of held-out good images.
        anomalous: float [A], scores of held-out anomalous images, real or synthetic; never of test
            images.

    Raises:
        UsageError: there are no good or no anomalous scores.
        UserError: a score is NaN.
    """
    _check_labels(good.numel(), anomalous.numel())
    scores = torch.cat([_flat(good), _flat(anomalous)])
    labels = torch.cat([torch.zeros(good.numel()), torch.ones(anomalous.numel())])
    lowest = f1_max(curve_of(scores, labels))[1]
    below = scores[scores < lowest]
    if not len(below):
        return math.nextafter(lowest, -math.inf)
    return (lowest + float(below.max())) / 2


def check_requirements(
    method: ThresholdMethod | float | None,
    reject: float | None,
    good: int,
    anomalous: int,
    has_chi_square: bool,
) -> str | None:
    """Checks that `choose` can find a threshold, from the numbers of held-out images alone.

    Args:
        method: as in `choose`.
        reject: as in `choose`.
        good: the number of held-out good images.
        anomalous: the number of held-out anomalous images, real or synthetic.
        has_chi_square: whether the scores have a known distribution.

    Returns:
        The `method` that the threshold will have; None if there will be none, because `method` and
        `reject` are None and too few images are held out.

    Raises:
        UsageError: the share is outside (0, 1), or the method lacks what it needs; the message says
            what that is.
    """
    share = REJECT if reject is None else reject
    needed = images_needed(share)
    if isinstance(method, int | float):
        return NUMBER
    if method is None and reject is None and good < needed:
        return None
    if method == "f1":
        _check_labels(good, anomalous)
    elif method == "chi2":
        _check_chi_square(has_chi_square)
    elif method == "quantile":
        _check_any(good)
    else:
        _check_enough(good, share)
    return method or "conformal"


def _check_labels(good: int, anomalous: int) -> None:
    if not good or not anomalous:
        raise UsageError(
            f"--threshold f1 needs labelled validation images; there are {good} good and "
            f"{anomalous} anomalous ones. Add --data.validation given if the data set has some; "
            "or, for synthetic anomalies, --data.validation holdout "
            "--data.validation_anomalies true"
        )


def _check_chi_square(known: bool) -> None:
    if not known:
        raise UsageError("--threshold chi2 is for Mahalanobis AD alone; choose conformal")


def _check_any(good: int) -> None:
    if not good:
        raise UsageError(
            "--threshold quantile needs held-out good images: add --data.validation holdout"
        )


def _check_enough(good: int, reject: float) -> None:
    needed = images_needed(reject)
    if good >= needed:
        return
    remedy = "Hold some out of training: --data.validation holdout"
    if good:
        remedy = (
            f"With {good}, {1 / (good + 1):.2g} is the least that can be asked for. "
            "Hold out more of them (data.validation_share), or allow for more (--reject)"
        )
    raise UsageError(
        f"to reject at most {reject:g} of good parts takes the scores of {needed} held-out good "
        f"images, and there are {good}. {remedy}"
    )


def choose(
    method: ThresholdMethod | float | None,
    reject: float | None,
    calibration: Calibration,
    chi_square: Callable[[float], float | None] = lambda share: None,
) -> Threshold | None:
    """Chooses the threshold of a run; nothing of it comes from test images.

    Args:
        method: `conformal`, `quantile`, `f1`, `chi2`, or the image threshold itself; None for
            `conformal` if enough images are held out for it.
        reject: the share of good parts that may be called anomalous, in (0, 1); None for `REJECT`.
        calibration: of the run.
        chi_square: gives the threshold for a share if the scores have a known distribution, else
            None.

    Returns:
        None if `method` and `reject` are None and too few images are held out.

    Raises:
        UsageError: the share is outside (0, 1), or the method lacks what it needs.
    """
    share = REJECT if reject is None else reject
    _check_share(share)
    limit = chi_square(share) if method == "chi2" else None
    good = len(calibration)
    anomalous = len(calibration.anomalous)
    chosen = check_requirements(method, reject, good, anomalous, limit is not None)
    if chosen is None:
        return None
    if chosen == NUMBER:
        return Threshold(float(method), None, chosen, "a number that was given")
    if chosen == "f1":
        return _by_labels(calibration)
    if chosen == "chi2":
        assert limit is not None  # `check_requirements` has raised otherwise
        return _by_chi_square(limit, share)
    if chosen == "quantile":
        return _by_quantile(calibration, share)
    return _conformal(calibration, share)


def _by_labels(calibration: Calibration) -> Threshold:
    image = f1_threshold(calibration.good, calibration.anomalous)
    images = f"{len(calibration)} good and {len(calibration.anomalous)} anomalous validation images"
    return Threshold(image, None, "f1", f"labels: the best F1 on {images}")


def _by_chi_square(limit: float, share: float) -> Threshold:
    basis = f"{_per_cent(share)} of good parts, were distances chi-square distributed"
    return Threshold(limit, None, "chi2", basis)


def _by_quantile(calibration: Calibration, share: float) -> Threshold:
    images = f"{len(calibration)} held-out good images"
    basis = f"the {1 - share:g} quantile of {images}; of new ones, more lie above it"
    return _by_good_images("quantile", quantile_threshold, calibration, share, basis)


def _conformal(calibration: Calibration, share: float) -> Threshold:
    by = f"by {len(calibration)} held-out good images"
    basis = f"at most {_per_cent(share)} of good parts, on average, {by}"
    if calibration.chosen:
        basis = (
            f"about {_per_cent(share)} of good parts, {by}; they had a part in the training, so "
            "this is no promise"
        )
    return _by_good_images("conformal", conformal_threshold, calibration, share, basis)


def _by_good_images(
    method: str,
    find: Callable[[Tensor, float], float],
    calibration: Calibration,
    share: float,
    basis: str,
) -> Threshold:
    image = find(calibration.good, share)
    pixel = find(calibration.maxima, share)
    return Threshold(image, pixel, method, basis)


def _per_cent(share: float) -> str:
    return f"{100 * share:g} %"
