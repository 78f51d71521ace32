"""Thresholds: with a guarantee, from p-values against held-out good parts, or as others choose them."""

import math

import torch
from torch import Tensor

from lightning_ad.errors import UsageError
from lightning_ad.evaluation.curves import f1_max
from lightning_ad.evaluation.sorting import rank, reject_nan

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
        raise UsageError(f"the share of good parts that may be rejected lies between 0 and 1; {reject:g} came")
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
    allowed = math.floor(reject * (count + 1) + _ROUNDING) - 1  # calibration scores that may lie as high
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
        raise UsageError("--threshold quantile needs held-out good images: add --data.validation holdout")
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
    lowest = f1_max(rank(scores, labels))[1]
    below = scores[scores < lowest]
    return math.nextafter(lowest, -math.inf) if not len(below) else (lowest + float(below.max())) / 2
