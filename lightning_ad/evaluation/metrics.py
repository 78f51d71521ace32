"""All metrics of a test set as one torchmetrics class: exact, and in constant memory above a budget."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from lightning_ad.evaluation.binning import BINS, Histogram, curve, interval
from lightning_ad.evaluation.curves import (
    Curve,
    Points,
    aupro,
    auroc,
    average_precision,
    f1_max,
    precision_recall,
    pro,
    roc,
    thin,
)
from lightning_ad.evaluation.ranking import CurveMetric, same_shape
from lightning_ad.evaluation.regions import region_weights


def _f1_max(curve: Curve) -> float:
    return f1_max(curve)[0]


# A new metric or plot is one line here. The first word says what is ranked: images or pixels.
METRICS: dict[str, Callable[[Curve], float]] = {
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

BYTES = 16  # a pixel takes at the peak: a score, a weight, and sorted copies
METRIC_NAMES: tuple[str, ...] = tuple(METRICS)


class AnomalyMetrics(CurveMetric):
    """All metrics of `METRIC_NAMES` from one ranking of the images and one of the pixels.

    Exact as long as the pixels of a process fit into its budget. From then on they are counted in bins (`binning`), in
    constant memory, with a notice; then `bounds` holds, after `compute()`, between which numbers the exact pixel
    metrics lie. `plots` holds the curves for a report: image ROC, image precision-recall, pixel ROC, pixel
    precision-recall and pixel PRO, each as (x, y) of at most 300 points, empty where undefined.

    Args:
        memory_gb: GiB that the exact pixel metrics may take on each process; 16 bytes a pixel at the peak.
        kwargs: of `torchmetrics.Metric`.
    """

    plots: dict[str, tuple[list[float], list[float]]]
    bounds: dict[str, tuple[float, float]]

    def __init__(self, memory_gb: float = 4.0, **kwargs: Any) -> None:
        super().__init__("image_", "pixel_", **kwargs)
        self.memory_gb = memory_gb
        # A histogram's float64 bits as float32, because processes can only exchange lists of one type.
        self.add_state("pixel_bins", [], dist_reduce_fx="cat")
        self.plots, self.bounds, self._held = {}, {}, 0

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
        same_shape(map=map, mask=mask)
        same_shape(score=score, label=label)
        if len(map) != len(score):
            raise ValueError(f"Each image needs a map and a score, but {len(map)} maps met {len(score)} scores.")
        weights = region_weights(mask)
        outlined = mask.flatten(1).any(1) | ~label.bool()
        self._append("image_", score, label.bool())
        pixels = map[outlined]
        self._append("pixel_", pixels, weights[outlined])
        self._held += BYTES * pixels.numel()
        if self.pixel_bins:
            self._put_in_bins()
        elif self._held > self.memory_gb * 2**30:
            rank_zero_warn(
                f"The pixels take more than {self.memory_gb:g} GiB and are counted in bins from here on; the bounds of "
                "the exact pixel metrics are stated with them. --metrics_gb allows more."
            )
            self._put_in_bins()

    def _put_in_bins(self) -> None:
        """Moves the pixels held so far into the histogram."""
        counts = Histogram.of(self._join("pixel_scores"), self._join("pixel_weights"))
        self.pixel_scores, self.pixel_weights = [], []
        total, *others = self._histograms() or [torch.zeros(3, BINS, dtype=torch.float64)]
        for part in (counts, *others):
            for row, more in zip(total, part, strict=True):
                row += more.cpu()
        self.pixel_bins = [total.flatten().view(torch.float32).to(self.device)]

    def _pixel_curve(self) -> Curve:
        """From the pixels held, or, where a process has put them in bins, from the bins of all."""
        if not len(self.pixel_bins):
            return self._curve("pixel_")
        self._put_in_bins()
        binned = curve(Histogram(*self._histograms()[0]))
        names = [name for name in METRIC_NAMES if name.startswith("pixel_")]
        self.bounds = {name: interval(binned, METRICS[name]) for name in names}
        return binned

    def _histograms(self) -> list[Tensor]:
        """Of each process: float64 [3, BINS]."""
        bins = [t.cpu() for t in self.pixel_bins] if isinstance(self.pixel_bins, list) else [self.pixel_bins.cpu()]
        return [h for t in bins for h in t.view(torch.float64).reshape(-1, 3, BINS)]

    def compute(self) -> dict[str, float]:
        """The metrics of `METRIC_NAMES` over all processes, NaN where undefined. Sets `plots` and `bounds`."""
        curves = {"image": self._curve("image_"), "pixel": self._pixel_curve()}
        points = {name: thin(*plot(curves[name.split()[0]])) for name, plot in _PLOTS.items()}
        self.plots = {name: (x.tolist(), y.tolist()) for name, (x, y) in points.items()}
        return {name: metric(curves[name.split("_")[0]]) for name, metric in METRICS.items()}

    def reset(self) -> None:
        """Forgets everything seen, the plots and the bounds."""
        super().reset()
        self.plots, self.bounds, self._held = {}, {}, 0
