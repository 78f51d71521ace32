"""Curves in constant memory: scores counted in fixed bins, and how far off the metrics can be because of it.

A bin holds the float32 numbers that share their upper 20 bits: sign, exponent and 11 bits of the mantissa. It is as
wide as 0.05 % of its scores, whatever their range, and bins of several batches or processes are simply added. Only the
order of scores within one bin is unknown: `interval` lets it be the best and the worst there can be, so that the exact
metric always lies within what it returns.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_ad.evaluation.curve import Curve, reject_nan
from lightning_ad.evaluation.functional import average_precision

BITS = 20
BINS = 1 << BITS
_DROPPED = 32 - BITS
_MAGNITUDE = 0x7FFFFFFF
_PIECE = 1 << 17  # scores counted at a time


class Histogram(NamedTuple):
    """Counts of the K bins that hold a score, the lowest first.

    Attributes:
        bins: int64 [K], rising, in [0, BINS).
        negatives: int64 [K].
        positives: int64 [K].
        overlap: float64 [K], sum of the positives' weights.
    """

    bins: NDArray[np.int64]
    negatives: NDArray[np.int64]
    positives: NDArray[np.int64]
    overlap: NDArray[np.float64]

    @classmethod
    def of(cls, scores: Tensor, weights: Tensor) -> "Histogram":
        """Counts scores (float [N]) and weights (float32 [N], 0 for a negative), as `curves.ranked` takes them.

        Raises:
            ValueError: the shapes differ.
            UserError: a score is NaN.
        """
        if scores.shape != weights.shape:
            raise ValueError(
                f"Each score needs a weight, but {list(scores.shape)} met {list(weights.shape)}."
            )
        reject_nan(scores, "scores")
        pieces = zip(scores.flatten().split(_PIECE), weights.flatten().split(_PIECE), strict=True)
        return add([_count(bin_of(s).cpu().numpy(), w.cpu().numpy()) for s, w in pieces])


def _count(bins: NDArray[np.int32], weights: NDArray[np.float32]) -> Histogram:
    positive = weights > 0
    low, counts = np.unique(bins[~positive], return_counts=True)
    high, place = np.unique(bins[positive], return_inverse=True)
    zeros = [np.zeros(len(b), np.int64) for b in (low, high)]
    return add([
        Histogram(low.astype(np.int64), counts, zeros[0], zeros[0].astype(np.float64)),
        Histogram(high.astype(np.int64), zeros[1], np.bincount(place, minlength=len(high)),
                  np.bincount(place, weights[positive].astype(np.float64), len(high))),
    ])  # fmt: skip


def add(parts: Sequence[Histogram]) -> Histogram:
    """The histogram of all that was counted in several."""
    bins = np.unique(np.concatenate([np.empty(0, np.int64), *(part.bins for part in parts)]))
    total = Histogram(
        bins, *(np.zeros(len(bins), kind) for kind in (np.int64, np.int64, np.float64))
    )
    for part in parts:
        places = np.searchsorted(bins, part.bins)
        for column, more in zip(total[1:], part[1:], strict=True):
            column[places] += more
    return total


def bin_of(scores: Tensor) -> Tensor:
    """The bin of each score, int32 in [0, BINS); higher scores never lie in lower bins."""
    bits = (scores.detach().float() + 0.0).contiguous().view(torch.int32)  # -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ _MAGNITUDE, bits)
    return (ordered >> _DROPPED) + BINS // 2


def lowest_of(bins: NDArray[np.int64]) -> NDArray[np.float32]:
    """The lowest score of each bin, float32."""
    ordered = ((bins - BINS // 2) << _DROPPED).astype(np.int32)
    lowest = (
        np.where(ordered < 0, ordered ^ np.int32(_MAGNITUDE), ordered)
        .astype(np.int32)
        .view(np.float32)
    )
    return np.where(
        np.isnan(lowest), np.float32(-np.inf), lowest
    )  # below -inf, the bits are those of NaN


def curve(counts: Histogram) -> Curve:
    """The curve of scores that are equal within each bin."""
    columns = [column[::-1] for column in counts]
    return Curve(lowest_of(columns[0]), *(np.cumsum(column) for column in columns[1:]))


def interval(binned: Curve, metric: Callable[[Curve], float]) -> tuple[float, float]:
    """Between which numbers the exact metric lies; for AUROC, AP, F1-max and AUPRO.

    Within a bin, the best order has all positives first, the worst all negatives. ROC and PRO are monotone, so the
    exact ones run between those of the two orders; every threshold at a bin's edge can be had, so F1-max is at least
    the binned one; of AP's worst order, the precisions of a bin's positives rise along a concave curve, whose mean is
    at least that of its ends.
    """
    if not binned.defined:
        return float("nan"), float("nan")
    worst = (
        _ap_at_least(binned)
        if metric is average_precision
        else metric(_ordered(binned, best=False))
    )
    return worst, metric(_ordered(binned, best=True))


def _ordered(binned: Curve, best: bool) -> Curve:
    """Each bin in two steps: positives before negatives, or the other way round."""
    before = [np.append(0, column[:-1]) for column in binned[1:]]
    first = [before[0], binned[2], binned[3]] if best else [binned[1], before[1], before[2]]
    columns = [np.stack([a, b], 1).ravel() for a, b in zip(first, binned[1:], strict=True)]
    some = columns[0] + columns[1] > 0
    return Curve(binned.thresholds.repeat(2)[some], *(column[some] for column in columns))


def _ap_at_least(binned: Curve) -> float:
    hits, before = binned.true_positives, np.append(0, binned.true_positives[:-1])
    one = np.minimum(before + 1, hits)  # bins without positives weigh nothing
    precisions = (n / np.maximum(n + binned.false_positives, 1) for n in (one, hits))
    return float(np.sum((hits - before) * sum(precisions)) / 2 / hits[-1])
