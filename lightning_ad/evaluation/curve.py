"""One sort of the scores of each group of images, and from it the curve of any groups together.

A curve counts what lies at or above each score; metrics are read off it (`functional`). Scores are
raw numbers of any range; nothing is squashed, binned or normalised.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_ad.evaluation.checks import check_scores


class Curve(NamedTuple):
    """Counts at or above each of K falling thresholds. The last threshold is the lowest score.

    Attributes:
        thresholds: float32 [K], distinct scores, falling.
        false_positives: int64 [K], number of negatives.
        true_positives: int64 [K], number of positives.
        overlap: float64 [K], sum of weights; with region weights, the overlaps of all regions added
            up.
    """

    thresholds: NDArray[np.float32]
    false_positives: NDArray[np.int64]
    true_positives: NDArray[np.int64]
    overlap: NDArray[np.float64]

    @property
    def defined(self) -> bool:
        """Returns whether there are both positives and negatives."""
        if not self.thresholds.size:
            return False
        return bool(self.true_positives[-1] > 0 and self.false_positives[-1] > 0)


class Ranked(NamedTuple):
    """The scores of some images, each sorted once; `merge` gives the curve of several together.

    Attributes:
        negatives: float32 [N], rising.
        positives: float32 [P], rising.
        gains: float64 [P], the weights of the positives.
    """

    negatives: NDArray[np.float32]
    positives: NDArray[np.float32]
    gains: NDArray[np.float64]


def curve_of(scores: Tensor, weights: Tensor) -> Curve:
    """Returns the curve of all scores: `merge` of one `ranked` group."""
    return merge([ranked(scores, weights)])


def ranked(scores: Tensor, weights: Tensor) -> Ranked:
    """Sorts scores.

    Args:
        scores: float [N], higher is more anomalous; rounded to float32. Infinite scores are
            allowed.
        weights: float32 [N], 0 for a negative, positive for a positive: 1, or its region weight.

    Raises:
        ValueError: the shapes differ.
        UserError: a score is NaN.
    """
    check_scores(scores, weights)
    # NumPy sorts bare float32 values twenty times faster than torch.sort, which carries int64
    # indices along.
    all_scores = _flat_array(scores)
    all_weights = _flat_array(weights)
    positive = all_weights > 0
    negatives = all_scores[~positive]
    negatives.sort()
    positives = all_scores[positive]
    gains = all_weights[positive]
    order = np.argsort(positives)
    return Ranked(negatives, positives[order], gains[order].astype(np.float64))


def _flat_array(values: Tensor) -> NDArray[np.float32]:
    return values.detach().cpu().float().flatten().numpy()


def merge(groups: Sequence[Ranked]) -> Curve:
    """Counts what lies at or above each score of all groups; equal scores fall together.

    The curve keeps each distinct positive score, the next negative score above it, and the lowest
    of all. Between those only negatives come in: ROC and PRO run level, precision falls at constant
    recall, and the points left out change no metric. A curve is as long as the defects are large,
    not as the images.
    """
    none = Ranked(np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0))
    groups = [none, *groups]
    positives = np.concatenate([group.positives for group in groups])
    gains = np.concatenate([group.gains for group in groups])
    order = np.argsort(positives, kind="stable")
    positives = positives[order]
    gains = gains[order]
    negatives = [group.negatives for group in groups if group.negatives.size]

    thresholds = _thresholds(np.unique(positives), negatives)
    true_positives = positives.size - np.searchsorted(positives, thresholds)
    cumulated = np.concatenate([[0.0], np.cumsum(gains[::-1])])
    false_positives = np.zeros(thresholds.shape, np.int64)
    for sorted_scores in negatives:
        false_positives += sorted_scores.size - np.searchsorted(sorted_scores, thresholds)
    return Curve(thresholds, false_positives, true_positives, overlap=cumulated[true_positives])


def _thresholds(
    levels: NDArray[np.float32], negatives: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Returns the scores that a curve keeps, falling.

    Args:
        levels: the distinct scores of positives, rising.
        negatives: those of the negatives of each group, rising, none empty.
    """
    above = np.full(levels.shape, np.nan, np.float32)  # each level, the next negative score
    for sorted_scores in negatives:
        places = np.searchsorted(sorted_scores, levels, side="right")
        some = places < sorted_scores.size
        above[some] = np.fmin(above[some], sorted_scores[places[some]])
    above = above[~np.isnan(above)]
    lowest = np.array([scores[0] for scores in negatives], np.float32)
    rising = np.unique(np.concatenate([levels, above, lowest]))
    return rising[::-1]
