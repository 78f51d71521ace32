"""The torchmetrics classes of single metrics: exact, no sigmoid, the same on many processes."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lightning_ad.evaluation.checks import check_same_shape
from lightning_ad.evaluation.curve import Curve, curve_of
from lightning_ad.evaluation.functional import aupro, auroc, average_precision, f1_max
from lightning_ad.evaluation.regions import region_weights


class CurveMetric(Metric):
    """Keeps the scores and weights of one or more rankings, in float32.

    Args:
        prefixes: what the names of each ranking's states begin with.
        kwargs: of `torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, *prefixes: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A process without samples sends empty states of this dtype; with any other, gloo would
        # abort.
        self.set_dtype(torch.float32)
        for prefix in prefixes:
            self.add_state(f"{prefix}scores", [], dist_reduce_fx="cat")
            self.add_state(f"{prefix}weights", [], dist_reduce_fx="cat")

    def _append(self, prefix: str, scores: Tensor, weights: Tensor) -> None:
        getattr(self, f"{prefix}scores").append(scores.detach().flatten().float())
        getattr(self, f"{prefix}weights").append(weights.flatten().float())

    def _join(self, name: str) -> Tensor:
        """Returns all pieces of a state as one tensor, which takes their place.

        So many pixels need not lie in memory twice.
        """
        state = getattr(self, name)
        if not len(state):
            return torch.zeros(0)
        joined = dim_zero_cat(state)
        setattr(self, name, [joined])
        return joined


class RankingMetric(CurveMetric):
    """Base of the metrics that rank scores of any range against a binary truth.

    `compute()` gives a float64 scalar tensor, NaN if there is no positive or no negative.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("", **kwargs)

    @abstractmethod
    def value(self, curve: Curve) -> float:
        """Returns the metric of the curve of all scores seen."""

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Takes scores (float, any shape) and their truth (bool or int, 0 is good).

        Raises:
            ValueError: the shapes differ.
        """
        check_same_shape(scores=scores, target=target)
        self._append("", scores, target.bool())

    def compute(self) -> Tensor:
        """Returns the metric over all processes."""
        curve = curve_of(self._join("scores"), self._join("weights"))
        return torch.tensor(self.value(curve), dtype=torch.float64)


class AUROC(RankingMetric):
    """Area under the ROC curve, see `functional.auroc`."""

    def value(self, curve: Curve) -> float:
        return auroc(curve)


class AveragePrecision(RankingMetric):
    """Average precision, see `functional.average_precision`."""

    def value(self, curve: Curve) -> float:
        return average_precision(curve)


class F1Max(RankingMetric):
    """The best F1 score of all thresholds, see `functional.f1_max`."""

    def value(self, curve: Curve) -> float:
        return f1_max(curve)[0]


class AUPRO(RankingMetric):
    """Area under the per-region overlap up to a false-positive rate, see `functional.aupro`."""

    def __init__(self, limit: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit = limit

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Takes anomaly maps (float [B, H, W]) and the true masks (bool [B, H, W]).

        Raises:
            TypeError: the masks are not bool.
            ValueError: the shapes differ, or are not [B, H, W].
        """
        check_same_shape(scores=scores, target=target)
        self._append("", scores, region_weights(target))

    def value(self, curve: Curve) -> float:
        """Returns the area divided by the limit, in [0, 1]."""
        return aupro(curve, self.limit)
