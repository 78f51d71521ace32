"""Ranking metrics as pure functions of one curve.

The scores are ranked once. AUROC, average precision, F1-max and AUPRO are sums over the same
columns. A metric that is undefined, because there is no positive or no negative, is NaN, and its
plot is empty.
"""

import numpy as np
from numpy.typing import NDArray

from lightning_ad.errors import UsageError
from lightning_ad.evaluation.curve import Curve

Column = NDArray[np.float64]
Points = tuple[Column, Column]  # x and y


def roc(curve: Curve) -> Points:
    """Returns false-positive rate and true-positive rate, from (0, 0) to (1, 1)."""
    return _from_origin(curve, curve.true_positives)


def pro(curve: Curve) -> Points:
    """Returns false-positive rate over all good pixels and mean overlap per region.

    From (0, 0) to (1, 1).
    """
    return _from_origin(curve, curve.overlap)


def precision_recall(curve: Curve) -> Points:
    """Returns recall and precision, from (0, 1), as in scikit-learn, to recall 1."""
    if not curve.defined:
        return np.empty(0), np.empty(0)
    hits = curve.true_positives
    precision = hits / (hits + curve.false_positives)
    recall = hits / hits[-1]
    return _preceded(0.0, recall), _preceded(1.0, precision)


def auroc(curve: Curve) -> float:
    """Returns the area under the ROC curve.

    It is the chance that a positive outranks a negative, a tie counting one half.
    """
    if not curve.defined:
        return float("nan")
    return _area(*roc(curve))


def average_precision(curve: Curve) -> float:
    """Returns the mean of the precision over the steps of recall, as scikit-learn defines it."""
    if not curve.defined:
        return float("nan")
    recall, precision = precision_recall(curve)
    steps = recall[1:] - recall[:-1]
    return float((steps * precision[1:]).sum())


def f1_max(curve: Curve) -> tuple[float, float]:
    """Returns the best F1 score of all thresholds, and the highest threshold that reaches it.

    A score is positive if it is at or above the threshold. The choice looks at the truth of the
    test set, as the literature does: an upper bound, not a working point.
    """
    if not curve.defined:
        return float("nan"), float("nan")
    hits = curve.true_positives
    f1 = 2 * hits / (hits + curve.false_positives + hits[-1])
    best = int(f1.argmax())
    return float(f1[best]), float(curve.thresholds[best])


def aupro(curve: Curve, limit: float = 0.3) -> float:
    """Returns the area under the per-region overlap up to a false-positive rate, over that rate.

    The definition of MVTec AD (Bergmann et al., IJCV 2021): 8-connected regions of equal weight,
    the false-positive rate over all good pixels of all images, linear interpolation at the limit. A
    constant map scores limit / 2.

    Args:
        curve: ranked with the weights of `region_weights`.
        limit: false-positive rate at which the integral ends, in (0, 1].

    Raises:
        UsageError: the limit is outside (0, 1].
    """
    if not 0 < limit <= 1:
        raise UsageError(
            f"The limit of AUPRO must lie in (0, 1], got {limit}. Usual limits are 0.3 and 0.05."
        )
    if not curve.defined:
        return float("nan")
    rate, overlap = pro(curve)
    inside = rate <= limit
    x = np.append(rate[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, rate, overlap))
    return _area(x, y) / limit


def sensitivity(curve: Curve, rate: float) -> float:
    """Returns the largest true-positive rate at which the false-positive rate is at most `rate`.

    Raises:
        UsageError: the rate is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise UsageError(f"A false-positive rate must lie in [0, 1], got {rate}.")
    if not curve.defined:
        return float("nan")
    allowed = curve.false_positives / curve.false_positives[-1] <= rate
    hits = np.append(0, curve.true_positives[allowed])
    return float(hits.max() / curve.true_positives[-1])


def thin(x: Column, y: Column, points: int = 300) -> Points:
    """Keeps at most `points` of a curve's points, evenly spaced along its length, and both ends."""
    if x.size <= points:
        return x, y
    steps = np.hypot(np.diff(x), np.diff(y))
    length = np.append(0.0, np.cumsum(steps))
    wanted = np.linspace(0.0, length[-1], points)
    keep = np.unique(np.searchsorted(length, wanted))
    return x[keep], y[keep]


def _from_origin(curve: Curve, gained: NDArray) -> Points:
    if not curve.defined:
        return np.empty(0), np.empty(0)
    rate = curve.false_positives / curve.false_positives[-1]
    return _preceded(0.0, rate), _preceded(0.0, gained / gained[-1])


def _preceded(first: float, column: Column) -> Column:
    """Puts a number before a column; np.append takes three times as long if it is short."""
    longer = np.empty(column.size + 1)
    longer[0] = first
    longer[1:] = column
    return longer


def _area(x: Column, y: Column) -> float:
    trapezia = (x[1:] - x[:-1]) * (y[1:] + y[:-1])
    return float(trapezia.sum() / 2)
