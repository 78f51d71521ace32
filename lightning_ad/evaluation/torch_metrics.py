"""The base of the torchmetrics classes, and one for each metric: exact, no sigmoid, the same on many processes."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lightning_ad.evaluation.curve import Curve, curve_of
from lightning_ad.evaluation.functional import aupro, auroc, average_precision, f1_max
from lightning_ad.evaluation.regions import region_weights


class CurveMetric(Metric):
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
        return curve_of(self._join(f"{prefix}scores"), self._join(f"{prefix}weights"))

    def _join(self, name: str) -> Tensor:
        state = getattr(self, name)
        if not len(state):
            return torch.zeros(0)
        joined = dim_zero_cat(state)
        setattr(
            self, name, [joined]
        )  # lets the pieces go: so many pixels need not lie in memory twice
        return joined


class RankingMetric(CurveMetric):
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
        same_shape(scores=scores, target=target)
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
        same_shape(scores=scores, target=target)
        self._append("", scores, region_weights(target))

    def value(self, curve: Curve) -> float:
        """The area divided by the limit, in [0, 1]."""
        return aupro(curve, self.limit)


def same_shape(**tensors: Tensor) -> None:
    """Raises ValueError, naming them, where the shapes of two tensors differ."""
    (first, a), (second, b) = tensors.items()
    if a.shape != b.shape:
        raise ValueError(
            f"{first} and {second} must have the same shape, but have {list(a.shape)} and {list(b.shape)}."
        )
