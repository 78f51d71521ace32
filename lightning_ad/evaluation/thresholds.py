"""Thresholds with a guarantee: p-values of scores against those of good parts that were held out."""

import torch
from torch import Tensor

from lightning_ad.errors import UsageError
from lightning_ad.evaluation.curves import reject_nan


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
