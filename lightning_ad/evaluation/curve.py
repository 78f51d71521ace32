"""One sort of the scores of each group of images, and the curve of any groups together from it.

A curve counts what lies at or above each score; the metrics are read off it (`curves`). Scores are raw numbers of any
range; nothing is squashed, binned or normalised.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_ad.errors import UserError


class Curve(NamedTuple):
    """What lies at or above each of K falling thresholds. The last threshold is the lowest score.

    Attributes:
        thresholds: float32 [K], distinct scores, falling.
        false_positives: int64 [K], number of negatives.
        true_positives: int64 [K], number of positives.
        overlap: float64 [K], sum of weights; with region weights, the overlaps of all regions added up.
    """

    thresholds: NDArray[np.float32]
    false_positives: NDArray[np.int64]
    true_positives: NDArray[np.int64]
    overlap: NDArray[np.float64]

    @property
    def defined(self) -> bool:
        """Whether there are positives and negatives to be told apart."""
        return self.thresholds.size > 0 and bool(
            self.true_positives[-1] > 0 and self.false_positives[-1] > 0
        )


class Ranked(NamedTuple):
    """The scores of some images, each sorted once; `merge` gives the curve of any of them together.

    Attributes:
        negatives: float32 [N], rising.
        positives: float32 [P], rising.
        gains: float64 [P], the weights of the positives.
    """

    negatives: NDArray[np.float32]
    positives: NDArray[np.float32]
    gains: NDArray[np.float64]


def curve_of(scores: Tensor, weights: Tensor) -> Curve:
    """The curve of all scores: `merge` of one `ranked` group."""
    return merge([ranked(scores, weights)])


def ranked(scores: Tensor, weights: Tensor) -> Ranked:
    """Sorts scores.

    Args:
        scores: float [N], higher is more anomalous; rounded to float32. Infinite scores are allowed.
        weights: float32 [N], 0 for a negative, positive for a positive: 1, or its region weight.

    Raises:
        ValueError: the shapes differ.
        UserError: a score is NaN.
    """
    if scores.shape != weights.shape:
        raise ValueError(
            f"Each score needs a weight, but {list(scores.shape)} scores met {list(weights.shape)} weights."
        )
    reject_nan(scores, "scores")
    # NumPy sorts bare float32 values twenty times faster than torch.sort, which carries int64 indices along.
    all_scores, all_weights = (
        t.detach().cpu().float().flatten().numpy() for t in (scores, weights)
    )
    positive = all_weights > 0
    negatives = all_scores[~positive]
    negatives.sort()
    positives, gains = all_scores[positive], all_weights[positive]
    order = np.argsort(positives)
    return Ranked(negatives, positives[order], gains[order].astype(np.float64))


def merge(groups: Sequence[Ranked]) -> Curve:
    """Counts what lies at or above each score of all groups; equal scores fall together.

    The curve keeps each distinct positive score, the next negative score above it, and the lowest of all.
    Between those only negatives come in: ROC and PRO run level, precision falls at constant recall, and the
    points left out change no metric. A curve is as long as the defects are large, not as the images.
    """
    positives = np.concatenate([np.empty(0, np.float32), *(group.positives for group in groups)])
    order = np.argsort(positives, kind="stable")
    gains = np.concatenate([np.empty(0), *(group.gains for group in groups)])[order]
    positives = positives[order]
    negatives = [group.negatives for group in groups if group.negatives.size]

    levels = np.unique(positives)
    above = np.full(levels.shape, np.nan, np.float32)
    for sorted_scores in negatives:
        places = np.searchsorted(sorted_scores, levels, side="right")
        some = places < sorted_scores.size
        above[some] = np.fmin(above[some], sorted_scores[places[some]])
    firsts = np.array([scores[0] for scores in negatives], np.float32)
    thresholds = np.unique(np.concatenate([levels, above[~np.isnan(above)], firsts]))[::-1]
    true_positives = positives.size - np.searchsorted(positives, thresholds)
    cumulated = np.concatenate([[0.0], np.cumsum(gains[::-1])])
    false_positives = np.zeros(thresholds.shape, np.int64)
    for sorted_scores in negatives:
        false_positives += sorted_scores.size - np.searchsorted(sorted_scores, thresholds)
    return Curve(thresholds, false_positives, true_positives, overlap=cumulated[true_positives])


def reject_nan(values: Tensor, name: str) -> None:
    """Raises UserError, with their number, if there are NaN among the values."""
    if missing := int(values.isnan().sum()):
        raise UserError(
            f"{name.capitalize()} must be numbers, but {missing} of {values.numel()} are NaN. "
            "Look for a training that diverged (lower the learning rate) or for broken input images."
        )
