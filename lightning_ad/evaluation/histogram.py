"""Curves in constant memory: scores counted in fixed bins, and bounds of the exact metrics.

A bin holds the float32 numbers that share their upper 20 bits: sign, exponent and 11 bits of the
mantissa. It is as wide as 0.05 % of its scores, whatever their range, and bins of several batches
or processes are simply added. Only the order of scores within one bin is unknown: `exact_bounds`
lets it be the best and the worst there can be, so that the exact metric always lies within what it
returns.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_ad.evaluation.checks import check_scores
from lightning_ad.evaluation.curve import Curve
from lightning_ad.evaluation.functional import average_precision

BITS = 20
BINS = 1 << BITS
_DROPPED = 32 - BITS
_MAGNITUDE = 0x7FFFFFFF
_PIECE = 1 << 17  # scores counted at a time
_NO_RANKING = -1.0


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
    def zeros(cls, bins: NDArray[np.int64]) -> "Histogram":
        """Returns a histogram of bins that hold nothing yet."""
        size = len(bins)
        negatives = np.zeros(size, np.int64)
        positives = np.zeros(size, np.int64)
        return cls(bins, negatives, positives, np.zeros(size, np.float64))

    @classmethod
    def of(cls, scores: Tensor, weights: Tensor) -> "Histogram":
        """Counts scores (float [N]) with weights (float32 [N], 0 for a negative).

        Raises:
            ValueError: the shapes differ.
            UserError: a score is NaN.
        """
        check_scores(scores, weights)
        pieces = zip(scores.flatten().split(_PIECE), weights.flatten().split(_PIECE), strict=True)
        counted = []
        for some, gains in pieces:
            bins = bin_of(some).cpu().numpy()
            counted.append(_count(bins, gains.cpu().numpy()))
        return add_histograms(counted)


def _count(bins: NDArray[np.int32], weights: NDArray[np.float32]) -> Histogram:
    positive = weights > 0
    gains = weights[positive].astype(np.float64)
    low, low_counts = np.unique(bins[~positive], return_counts=True)
    high, places = np.unique(bins[positive], return_inverse=True)
    negatives = Histogram.zeros(low.astype(np.int64))
    negatives.negatives[:] = low_counts
    positives = Histogram.zeros(high.astype(np.int64))
    positives.positives[:] = np.bincount(places, minlength=len(high))
    positives.overlap[:] = np.bincount(places, gains, len(high))
    return add_histograms([negatives, positives])


def add_histograms(parts: Sequence[Histogram]) -> Histogram:
    """Returns the histogram of all that was counted in several."""
    all_bins = [np.empty(0, np.int64)]
    all_bins += [part.bins for part in parts]
    total = Histogram.zeros(np.unique(np.concatenate(all_bins)))
    for part in parts:
        places = np.searchsorted(total.bins, part.bins)
        total.negatives[places] += part.negatives
        total.positives[places] += part.positives
        total.overlap[places] += part.overlap
    return total


def bin_of(scores: Tensor) -> Tensor:
    """Returns the bin of each score, int32 in [0, BINS); higher scores never lie in lower bins."""
    bits = (scores.detach().float() + 0.0).contiguous().view(torch.int32)  # -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ _MAGNITUDE, bits)
    return (ordered >> _DROPPED) + BINS // 2


def lowest_of(bins: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns the lowest score of each bin."""
    ordered = ((bins - BINS // 2) << _DROPPED).astype(np.int32)
    bits = np.where(ordered < 0, ordered ^ np.int32(_MAGNITUDE), ordered)
    lowest = bits.astype(np.int32).view(np.float32)
    # Below -inf, the bits are those of NaN.
    return np.where(np.isnan(lowest), np.float32(-np.inf), lowest)


def curve_of_histogram(counts: Histogram) -> Curve:
    """Returns the curve of scores that are taken as equal within each bin."""
    return Curve(
        thresholds=lowest_of(counts.bins[::-1]),
        false_positives=np.cumsum(counts.negatives[::-1]),
        true_positives=np.cumsum(counts.positives[::-1]),
        overlap=np.cumsum(counts.overlap[::-1]),
    )


def exact_bounds(binned: Curve, metric: Callable[[Curve], float]) -> tuple[float, float]:
    """Returns between which numbers the exact metric lies; for AUROC, AP, F1-max and AUPRO.

    Within a bin, the best order has all positives first, the worst all negatives. ROC and PRO are
    monotone, so the exact ones run between those of the two orders; every threshold at a bin's edge
    can be had, so F1-max is at least the binned one; of AP's worst order, the precisions of a bin's
    positives rise along a concave curve, whose mean is at least that of its ends.
    """
    if not binned.defined:
        return float("nan"), float("nan")
    highest = metric(_ordered(binned, best=True))
    if metric is average_precision:
        return _ap_at_least(binned), highest
    return metric(_ordered(binned, best=False)), highest


def _ordered(binned: Curve, best: bool) -> Curve:
    """Takes each bin in two steps: positives before negatives, or the other way round."""
    false_positives = _two_steps(binned.false_positives, first=not best)
    true_positives = _two_steps(binned.true_positives, first=best)
    overlap = _two_steps(binned.overlap, first=best)
    thresholds = binned.thresholds.repeat(2)
    some = false_positives + true_positives > 0
    return Curve(thresholds[some], false_positives[some], true_positives[some], overlap[some])


def _two_steps(counts: NDArray, first: bool) -> NDArray:
    """Counts after each of two steps a bin, of which the first or the second brings them."""
    between = counts if first else _before(counts)
    return np.stack([between, counts], 1).ravel()


def _before(counts: NDArray) -> NDArray:
    """Returns the counts before each bin."""
    return np.append(0, counts[:-1])


def _ap_at_least(binned: Curve) -> float:
    hits = binned.true_positives
    before = _before(hits)
    first = np.minimum(before + 1, hits)  # bins without positives weigh nothing
    at_first = first / np.maximum(first + binned.false_positives, 1)
    at_last = hits / np.maximum(hits + binned.false_positives, 1)
    steps = (hits - before) * (at_first + at_last)
    return float(np.sum(steps) / 2 / hits[-1])


class GroupKey(NamedTuple):
    """The pixels that a histogram counts: the numbers of their ranking and their kind of defect."""

    ranking: int
    kind: int


def pack_histograms(histograms: Mapping[GroupKey, Histogram]) -> Tensor:
    """Packs histograms into one tensor, so that processes can exchange them.

    Returns:
        Rows of six float64 (ranking, kind, and the columns of a histogram), flat and viewed as
        float32: processes can only exchange lists of one type. The first row is of no ranking.
    """
    tables = [np.full((1, 6), _NO_RANKING)]
    for key, histogram in histograms.items():
        numbers = [np.full(len(histogram.bins), number) for number in key]
        tables.append(np.stack([*numbers, *histogram], 1))
    rows = torch.from_numpy(np.concatenate(tables))
    return rows.flatten().view(torch.float32)


def unpack_histograms(packed: Tensor) -> dict[GroupKey, Histogram]:
    """Adds up what `pack_histograms` was given, on several processes or at several times."""
    rows = packed.cpu().contiguous().view(torch.float64)
    table = rows.reshape(-1, 6).numpy()
    parts: dict[GroupKey, list[Histogram]] = {}
    for key, histogram in _packed_parts(table):
        parts.setdefault(key, []).append(histogram)
    return {key: add_histograms(parts[key]) for key in sorted(parts)}


def _packed_parts(table: NDArray[np.float64]) -> Iterator[tuple[GroupKey, Histogram]]:
    """Yields the histograms in a table: one begins when the key changes or the bins do not rise."""
    another_key = (np.diff(table[:, :2], axis=0) != 0).any(1)
    no_rise = np.diff(table[:, 2]) <= 0
    starts = np.flatnonzero(another_key | no_rise) + 1
    for part in np.split(table, starts):
        ranking, kind = part[0, :2]
        if ranking != _NO_RANKING:
            bins, negatives, positives = part[:, 2:5].astype(np.int64).T
            histogram = Histogram(bins, negatives, positives, part[:, 5])
            yield GroupKey(int(ranking), int(kind)), histogram
