"""The curves as torchmetrics classes: exact, no sigmoid, no bins, the same on one process and on many."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lightning_ad.evaluation.curves import (
    Curve,
    Points,
    aupro,
    auroc,
    average_precision,
    f1_max,
    precision_recall,
    pro,
    rank,
    roc,
    thin,
)
from lightning_ad.evaluation.regions import region_weights


def _f1_max(curve: Curve) -> float:
    return f1_max(curve)[0]


# A new metric or plot is one line here. The first word says what is ranked: images or pixels.
_METRICS: dict[str, Callable[[Curve], float]] = {
    "image_AUROC": auroc,
    "image_AP": average_precision,
    "image_F1Max": _f1_max,
    "pixel_AUROC": auroc,
    "pixel_AP": average_precision,
    "pixel_F1Max": _f1_max,
    "pixel_AUPRO_0.30": partial(aupro, limit=0.30),
    "pixel_AUPRO_0.05": partial(aupro, limit=0.05),
}
_PLOTS: dict[str, Callable[[Curve], Points]] = {
    "image ROC": roc,
    "image precision-recall": precision_recall,
    "pixel ROC": roc,
    "pixel precision-recall": precision_recall,
    "pixel PRO": pro,
}

METRIC_NAMES: tuple[str, ...] = tuple(_METRICS)


class _CurveMetric(Metric):
    """Keeps the scores and weights of one or more rankings, in float32, each under a prefix of its own."""

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, *prefixes: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A process without samples sends empty states of this dtype; with any other, gloo would abort.
        self.set_dtype(torch.float32)
        for prefix in prefixes:
            self.add_state(f"{prefix}scores", [], dist_reduce_fx="cat")
            self.add_state(f"{prefix}weights", [], dist_reduce_fx="cat")

    def _append(self, prefix: str, scores: Tensor, weights: Tensor) -> None:
        getattr(self, f"{prefix}scores").append(scores.detach().flatten().float())
        getattr(self, f"{prefix}weights").append(weights.flatten().float())

    def _curve(self, prefix: str) -> Curve:
        return rank(self._join(f"{prefix}scores"), self._join(f"{prefix}weights"))

    def _join(self, name: str) -> Tensor:
        state = getattr(self, name)
        if not len(state):
            return torch.zeros(0)
        joined = dim_zero_cat(state)
        setattr(self, name, [joined])  # lets the pieces go: so many pixels need not lie in memory twice
        return joined


class RankingMetric(_CurveMetric):
    """Base of the metrics that rank scores of any range against a binary truth.

    `compute()` gives a float64 scalar tensor, NaN where there is no positive or no negative.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("", **kwargs)

    @abstractmethod
    def value(self, curve: Curve) -> float:
        """The metric, read off the curve of all scores seen."""

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Takes scores (float, any shape) and their truth (bool or int, the same shape; 0 is good).

        Raises:
            ValueError: the shapes differ.
        """
        _same_shape(scores=scores, target=target)
        self._append("", scores, target.bool())

    def compute(self) -> Tensor:
        """The metric over all processes."""
        return torch.tensor(self.value(self._curve("")), dtype=torch.float64)


class AUROC(RankingMetric):
    """Area under the ROC curve, see `curves.auroc`."""

    def value(self, curve: Curve) -> float:
        """The area, in [0, 1]."""
        return auroc(curve)


class AveragePrecision(RankingMetric):
    """Average precision, see `curves.average_precision`."""

    def value(self, curve: Curve) -> float:
        """The average precision, in [0, 1]."""
        return average_precision(curve)


class F1Max(RankingMetric):
    """The best F1 score of all thresholds, see `curves.f1_max`."""

    def value(self, curve: Curve) -> float:
        """The best F1 score, in [0, 1]."""
        return f1_max(curve)[0]


class AUPRO(RankingMetric):
    """Area under the per-region overlap up to a false-positive rate, see `curves.aupro`."""

    def __init__(self, limit: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit = limit

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Takes anomaly maps (float [B, H, W]) and the true masks (bool [B, H, W]).

        Raises:
            TypeError: the masks are not bool.
            ValueError: the shapes differ, or are not [B, H, W].
        """
        _same_shape(scores=scores, target=target)
        self._append("", scores, region_weights(target))

    def value(self, curve: Curve) -> float:
        """The area divided by the limit, in [0, 1]."""
        return aupro(curve, self.limit)


class AnomalyMetrics(_CurveMetric):
    """All metrics of `METRIC_NAMES` from one ranking of the images and one of the pixels.

    After `compute()`, `plots` holds the curves for a report: image ROC, image precision-recall, pixel ROC, pixel
    precision-recall and pixel PRO, each as (x, y) of at most 300 points, empty where undefined.
    """

    plots: dict[str, tuple[list[float], list[float]]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("image_", "pixel_", **kwargs)
        self.plots = {}

    def update(self, map: Tensor, score: Tensor, mask: Tensor, label: Tensor) -> None:
        """Takes one batch; B may be 0.

        An image labelled anomalous whose mask is empty has no pixel truth: it counts as an image, and its
        pixels are left out.

        Args:
            map: float [B, H, W], higher is more anomalous; any range.
            score: float [B], likewise.
            mask: bool [B, H, W], true where the part is defective.
            label: int64 or bool [B], 0 good, 1 anomalous.

        Raises:
            TypeError: the mask is not bool.
            ValueError: shapes do not fit each other.
        """
        _same_shape(map=map, mask=mask)
        _same_shape(score=score, label=label)
        if len(map) != len(score):
            raise ValueError(f"Each image needs a map and a score, but {len(map)} maps met {len(score)} scores.")
        weights = region_weights(mask)
        outlined = mask.flatten(1).any(1) | ~label.bool()
        self._append("image_", score, label.bool())
        self._append("pixel_", map[outlined], weights[outlined])

    def compute(self) -> dict[str, float]:
        """The metrics of `METRIC_NAMES` over all processes, NaN where undefined. Sets `plots`."""
        curves = {"image": self._curve("image_"), "pixel": self._curve("pixel_")}
        points = {name: thin(*plot(curves[name.split()[0]])) for name, plot in _PLOTS.items()}
        self.plots = {name: (x.tolist(), y.tolist()) for name, (x, y) in points.items()}
        return {name: metric(curves[name.split("_")[0]]) for name, metric in _METRICS.items()}

    def reset(self) -> None:
        """Forgets everything seen, and the plots."""
        super().reset()
        self.plots = {}


def _same_shape(**tensors: Tensor) -> None:
    (first, a), (second, b) = tensors.items()
    if a.shape != b.shape:
        raise ValueError(
            f"{first} and {second} must have the same shape, but have {list(a.shape)} and {list(b.shape)}."
        )
