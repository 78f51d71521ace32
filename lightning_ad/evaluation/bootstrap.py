"""How sure a metric is: bootstrap intervals over images, and a paired comparison of two runs."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_ad.errors import UsageError
from lightning_ad.evaluation.checks import reject_nan
from lightning_ad.evaluation.curve import Curve

DRAWS = 1000
PIXEL_DRAWS = 200
PIXEL_BINS = 2048
FEWEST_PIXEL_BINS = 32
COUNTS = 2**25  # of all images and bins together, about the most that are held
SAMPLED = 2**20  # pixels by which the bins are chosen, about
LEVEL = 0.95
Result = TypeVar("Result")
Intervals = dict[str, tuple[float, float]]  # both ends, by the name of a metric


class Difference(NamedTuple):
    """The difference of a metric between two runs on the same images, second minus first.

    Attributes:
        value: the difference.
        low: the lower end of its 95 % interval.
        high: the upper end.
        p: two-sided: the chance that the choice of the test images alone makes a difference as far
            from 0.
    """

    value: float
    low: float
    high: float
    p: float


def intervals(
    metrics: Mapping[str, Callable[[Curve], float]],
    scores: NDArray,
    labels: NDArray,
    seed: int = 0,
    draws: int = DRAWS,
) -> Intervals:
    """Returns the 95 % intervals of metrics of images.

    They are percentiles over test sets that are drawn anew from the images. Good and anomalous
    images are drawn separately, with replacement, as many as there are (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapters 8 and 13). An interval tells what another choice
    of test images could have given, not what another training could.

    Args:
        metrics: functions of a curve, by name.
        scores: [N], higher is more anomalous.
        labels: [N], 0 good, 1 anomalous.
        seed: of the draws.
        draws: how many test sets.

    Returns:
        Both ends by name; empty if there are no good or no anomalous images.
    """
    if not _both_kinds(labels):
        return {}
    levels = _levels(scores)

    def values(rows: NDArray[np.int64]) -> list[float]:
        curve = _curve_of_images(levels, rows, labels)
        return [metric(curve) for metric in metrics.values()]

    return _intervals_of(metrics, _over_draws(values, labels, seed, draws))


class ImagePixels(NamedTuple):
    """The pixels of N images, counted in K bins.

    Attributes:
        counts: float32 [N, 3, K], negatives, positives and overlap of each image in each bin, the
            lowest bin first.
        lowest: float32 [K], the lowest score of each bin, the highest bin first.
        numbers: int64 [N], the place of each of these images among those that were given.
    """

    counts: NDArray[np.float32]
    lowest: NDArray[np.float32]
    numbers: NDArray[np.int64]


def image_pixels(images: Sequence[tuple[NDArray, NDArray]]) -> ImagePixels:
    """Counts the pixels of images in at most `PIXEL_BINS` bins of about equally many.

    Args:
        images: scores and region weights, both [pixels], of each image, at least one.

    Returns:
        The images in the order of their highest scores, so that it does not matter which process
        saw which.
    """
    numbers = sorted(range(len(images)), key=lambda number: _order_of(images[number][0]))
    ordered = [images[number] for number in numbers]
    edges = _bin_edges(ordered)
    counts = np.stack([_counted(scores, weights, edges) for scores, weights in ordered])
    lowest = np.append(edges[::-1], -np.inf).astype(np.float32)
    return ImagePixels(counts, lowest, np.array(numbers))


def _order_of(scores: NDArray) -> tuple[float, float]:
    return scores.max(), scores.sum(dtype=np.float64)


def _bin_edges(images: Sequence[tuple[NDArray, NDArray]]) -> NDArray:
    """Returns quantiles of a sample of all scores, and of the scores of all positives."""
    step = max(1, sum(scores.size for scores, _ in images) // SAMPLED)
    half = max(FEWEST_PIXEL_BINS, min(PIXEL_BINS, COUNTS // len(images)) // 2)
    shares = np.linspace(0, 1, half + 1)[1:-1]
    sample = np.concatenate([scores[::step] for scores, _ in images])
    positives = np.concatenate([scores[weights > 0] for scores, weights in images])
    edges = []
    for part in (sample, positives):
        if part.size:
            edges.append(np.quantile(part, shares, method="nearest"))
    return np.unique(np.concatenate(edges))


def _counted(scores: NDArray, weights: NDArray, edges: NDArray) -> NDArray[np.float32]:
    """Counts negatives, positives and overlap of an image in each bin."""
    size = len(edges) + 1
    bins = np.searchsorted(edges, scores, side="right")
    positive = weights > 0
    hits = bins[positive]
    columns = (
        np.bincount(bins[~positive], minlength=size),
        np.bincount(hits, minlength=size),
        np.bincount(hits, weights[positive], size),
    )
    return np.stack(columns).astype(np.float32)


def pixel_intervals(
    metrics: Mapping[str, Callable[[Curve], float]],
    pixels: ImagePixels,
    among: NDArray[np.bool_] | None = None,
    seed: int = 0,
    draws: int = PIXEL_DRAWS,
) -> Intervals:
    """Returns the 95 % intervals of metrics of pixels, over test sets of images drawn anew.

    Images are drawn, not pixels: those of one image are not independent. The bins make the ends
    right to a thousandth or so. An image without weights is a good one. See `intervals`.

    Args:
        metrics: functions of a curve, by name.
        pixels: of the images.
        among: bool [N], which of the images, as they were given to `image_pixels`; None for all.
        seed: of the draws.
        draws: how many test sets.

    Returns:
        Both ends by name; empty if there are no good or no anomalous images.
    """
    counts = pixels.counts
    if among is not None:
        counts = counts[among[pixels.numbers]]
    labels = counts[:, 1].any(1)
    if not _both_kinds(labels):
        return {}

    def values(rows: NDArray[np.int64]) -> list[float]:
        curve = _curve_of_counts(counts, rows, pixels.lowest)
        return [metric(curve) for metric in metrics.values()]

    return _intervals_of(metrics, _over_draws(values, labels, seed, draws))


def _curve_of_counts(
    counts: NDArray[np.float32], rows: NDArray[np.int64], lowest: NDArray[np.float32]
) -> Curve:
    """Returns the curve of drawn images, each as often as its number is among the rows."""
    times = np.bincount(rows, minlength=len(counts)).astype(np.float32)
    total = np.tensordot(times, counts, 1)[:, ::-1]
    some = total[:2].any(0)
    columns = np.cumsum(total[:, some], axis=1, dtype=np.float64)
    return Curve(lowest[some], *columns)


def paired_difference(
    metric: Callable[[Curve], float],
    first: NDArray,
    second: NDArray,
    labels: NDArray,
    seed: int = 0,
    draws: int = DRAWS,
) -> Difference:
    """Compares two runs on the same images, by drawing the same images for both.

    Args:
        metric: a function of a curve.
        first: scores [N] of one run.
        second: scores [N] of the other, of the same images in the same order; the scales may
            differ.
        labels: [N], 0 good, 1 anomalous.
        seed: of the draws.
        draws: how many test sets; no p-value is below 2 / (draws + 1).

    Raises:
        UsageError: there are no good or no anomalous images.
    """
    if not _both_kinds(labels):
        raise UsageError(
            "runs are compared on good and anomalous images; the test set has only one kind"
        )

    levels = _levels(first)
    other_levels = _levels(second)

    def difference(rows: NDArray[np.int64]) -> float:
        before = metric(_curve_of_images(levels, rows, labels))
        return metric(_curve_of_images(other_levels, rows, labels)) - before

    drawn = _over_draws(difference, labels, seed, draws)
    below = sum(value <= 0 for value in drawn)
    above = sum(value >= 0 for value in drawn)
    p = min(1.0, 2 * (1 + min(below, above)) / (draws + 1))
    low, high = _percentiles(drawn)
    return Difference(difference(np.arange(len(labels))), low, high, p)


def _both_kinds(labels: NDArray) -> bool:
    return bool(0 < labels.sum() < len(labels))


def _over_draws(
    measure: Callable[[NDArray[np.int64]], Result], labels: NDArray, seed: int, draws: int
) -> list[Result]:
    """Returns what a function of rows gives for each test set that is drawn.

    Of few images the same test sets are drawn again and again: each is measured once.
    """
    measured: dict[bytes, Result] = {}
    drawn = []
    for rows in _resampled(labels, seed, draws):
        times = np.bincount(rows, minlength=len(labels))
        key = hashlib.blake2b(times, digest_size=16).digest()
        if key not in measured:
            measured[key] = measure(rows)
        drawn.append(measured[key])
    return drawn


def _resampled(labels: NDArray, seed: int, draws: int) -> Iterator[NDArray[np.int64]]:
    """Yields the rows of each test set that is drawn."""
    rng = np.random.default_rng(seed)
    good = np.flatnonzero(labels == 0)
    anomalous = np.flatnonzero(labels == 1)
    for _ in range(draws):
        drawn_good = good[rng.integers(len(good), size=len(good))]
        drawn_anomalous = anomalous[rng.integers(len(anomalous), size=len(anomalous))]
        yield np.concatenate([drawn_good, drawn_anomalous])


class _Levels(NamedTuple):
    """The scores of N images, of which K are distinct.

    Attributes:
        scores: float32 [K], distinct, falling.
        of_image: int64 [N], the place of each image's score among them.
    """

    scores: NDArray[np.float32]
    of_image: NDArray[np.int64]


def _levels(scores: NDArray) -> _Levels:
    """Sorts the scores of images once, for all draws.

    Raises:
        UserError: a score is NaN.
    """
    reject_nan(torch.from_numpy(np.ascontiguousarray(scores)), "scores")
    falling, of_image = np.unique(-scores.astype(np.float32), return_inverse=True)
    return _Levels(-falling, of_image)


def _curve_of_images(levels: _Levels, rows: NDArray[np.int64], labels: NDArray) -> Curve:
    """Returns `curve_of` the images in `rows`, without a sort; a row may occur several times."""
    positive = labels[rows] > 0
    drawn = levels.of_image[rows]
    size = len(levels.scores)
    positives = np.bincount(drawn[positive], minlength=size)
    negatives = np.bincount(drawn[~positive], minlength=size)
    present = (positives + negatives).nonzero()[0]
    has_positives = positives[present] > 0
    kept = has_positives.copy()
    kept[:-1] |= has_positives[1:]  # a level of negatives alone, next above one of positives
    kept[negatives[present].nonzero()[0][-1]] = True  # the lowest score of negatives
    places = present[kept]
    true_positives = positives.cumsum()[places]
    false_positives = negatives.cumsum()[places]
    overlap = true_positives.astype(np.float64)
    return Curve(levels.scores[places], false_positives, true_positives, overlap)


def _intervals_of(names: Iterable[str], drawn: Sequence[Sequence[float]]) -> Intervals:
    """Returns the intervals of metrics, from their values on each test set that was drawn."""
    columns = zip(*drawn, strict=True)
    return {name: _percentiles(column) for name, column in zip(names, columns, strict=True)}


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    low = (1 - LEVEL) / 2
    ends = np.quantile(np.array(values), [low, (1 + LEVEL) / 2])
    return float(ends[0]), float(ends[1])
