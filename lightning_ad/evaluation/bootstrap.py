"""How sure a metric is: intervals by bootstrap over images, and a paired comparison of two runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_ad.errors import UsageError
from lightning_ad.evaluation.curve import Curve, curve_of

DRAWS = 1000
PIXEL_DRAWS = 200
PIXEL_BINS = 2048
LEVEL = 0.95
Intervals = dict[str, tuple[float, float]]  # both ends, by the name of a metric


class Difference(NamedTuple):
    """Of a metric of two runs on the same images, the second minus the first.

    Attributes:
        value: the difference.
        low: the lower end of its 95 % interval.
        high: the upper end.
        p: two-sided: how often a difference as far from 0 would come about by the choice of the test images alone.
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
    """The 95 % intervals of metrics of images: percentiles over test sets drawn anew from the images.

    Good and anomalous images are drawn separately, with replacement, as many as there are (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapters 8 and 13). It tells what another choice of test images could
    have given, not what another training could.

    Args:
        metrics: of `curves`, by name.
        scores: [N], higher is more anomalous.
        labels: [N], 0 good, 1 anomalous.
        seed: of the draws.
        draws: how many test sets.

    Returns:
        Both ends by name; empty where there are no good or no anomalous images.
    """
    if not 0 < labels.sum() < len(labels):
        return {}
    curves = [_curve(scores[rows], labels[rows]) for rows in _resampled(labels, seed, draws)]
    return {
        name: _percentiles(np.array([metric(c) for c in curves]))
        for name, metric in metrics.items()
    }


class ImagePixels(NamedTuple):
    """The pixels of N images, counted in K bins.

    Attributes:
        counts: float32 [N, 3, K], negatives, positives and overlap of each image in each bin, the lowest first.
        lowest: float32 [K], the lowest score of each bin, the highest first.
        numbers: int64 [N], which of the images that were given each of these is.
    """

    counts: NDArray[np.float32]
    lowest: NDArray[np.float32]
    numbers: NDArray[np.int64]


def image_pixels(images: Sequence[tuple[NDArray, NDArray]]) -> ImagePixels:
    """Counts the pixels of images in at most `PIXEL_BINS` bins of about equally many.

    Args:
        images: scores and region weights, both [pixels], of each image, of which there is one at least.

    Returns:
        The images in the order of their highest scores: which process saw which changes nothing.
    """
    numbers = sorted(
        range(len(images)), key=lambda i: (images[i][0].max(), images[i][0].sum(dtype=np.float64))
    )
    images = [images[i] for i in numbers]
    step = max(1, sum(scores.size for scores, _ in images) // 2**20)
    most = max(32, min(PIXEL_BINS, 2**25 // len(images)) // 2)
    shares = np.linspace(0, 1, most + 1)[1:-1]
    sampled = [
        np.concatenate([s[::step] for s, _ in images]),
        np.concatenate([s[w > 0] for s, w in images]),
    ]
    edges = np.unique(
        np.concatenate(
            [np.quantile(part, shares, method="nearest") for part in sampled if part.size]
        )
    )
    counts = np.stack([_counted(scores, weights, edges) for scores, weights in images])
    return ImagePixels(
        counts, np.append(edges[::-1], -np.inf).astype(np.float32), np.array(numbers)
    )


def pixel_intervals(
    metrics: Mapping[str, Callable[[Curve], float]],
    pixels: ImagePixels,
    among: NDArray[np.bool_] | None = None,
    seed: int = 0,
    draws: int = PIXEL_DRAWS,
) -> Intervals:
    """The 95 % intervals of metrics of pixels, over test sets of images drawn anew (see `intervals`).

    Images are drawn, not pixels: those of one image are not independent. The bins make the ends right to a thousandth
    or so. An image without weights is a good one.

    Args:
        metrics: of `curves`, by name.
        pixels: of the images.
        among: bool [N], which of the images, as they were given to `image_pixels`; None for all.
        seed: of the draws.
        draws: how many test sets.

    Returns:
        Both ends by name; empty where there are no good or no anomalous images.
    """
    counts = pixels.counts if among is None else pixels.counts[among[pixels.numbers]]
    labels = counts[:, 1].any(1)
    if not 0 < labels.sum() < len(labels):
        return {}
    found = []
    for rows in _resampled(labels, seed, draws):
        total = np.tensordot(np.bincount(rows, minlength=len(counts)).astype(np.float32), counts, 1)
        total, some = total[:, ::-1], total[:2, ::-1].any(0)
        curve = Curve(pixels.lowest[some], *np.cumsum(total[:, some], axis=1, dtype=np.float64))
        found.append([metric(curve) for metric in metrics.values()])
    return {
        name: _percentiles(values) for name, values in zip(metrics, np.array(found).T, strict=True)
    }


def _counted(scores: NDArray, weights: NDArray, edges: NDArray) -> NDArray[np.float32]:
    """Negatives, positives and overlap of an image in each bin."""
    bins, positive, size = np.searchsorted(edges, scores, side="right"), weights > 0, len(edges) + 1
    hits = bins[positive]
    columns = (
        np.bincount(bins[~positive], minlength=size),
        np.bincount(hits, minlength=size),
        np.bincount(hits, weights[positive], size),
    )
    return np.stack(columns).astype(np.float32)


def paired_difference(
    metric: Callable[[Curve], float],
    first: NDArray,
    second: NDArray,
    labels: NDArray,
    seed: int = 0,
    draws: int = DRAWS,
) -> Difference:
    """The difference of a metric between two runs on the same images, by drawing the same images for both.

    Args:
        metric: of `curves`.
        first: scores [N] of one run.
        second: scores [N] of the other, of the same images in the same order; its scale may be another.
        labels: [N], 0 good, 1 anomalous.
        seed: of the draws.
        draws: how many test sets; no p-value is below 2 / (draws + 1).

    Raises:
        UsageError: there are no good or no anomalous images.
    """
    if not 0 < labels.sum() < len(labels):
        raise UsageError(
            "runs are compared on good and anomalous images; the test set has only one kind"
        )
    value = metric(_curve(second, labels)) - metric(_curve(first, labels))
    drawn = np.array(
        [
            metric(_curve(second[rows], labels[rows])) - metric(_curve(first[rows], labels[rows]))
            for rows in _resampled(labels, seed, draws)
        ]
    )
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Difference(value, *_percentiles(drawn), min(1.0, 2 * (1 + int(tail)) / (draws + 1)))


def _resampled(labels: NDArray, seed: int, draws: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(labels == kind) for kind in (0, 1)]
    return [np.concatenate([rng.choice(rows, len(rows)) for rows in kinds]) for _ in range(draws)]


def _curve(scores: NDArray, labels: NDArray) -> Curve:
    return curve_of(
        torch.from_numpy(np.ascontiguousarray(scores)), torch.from_numpy(labels.astype(np.float32))
    )


def _percentiles(values: NDArray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
