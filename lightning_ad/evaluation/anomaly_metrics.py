"""All metrics of a test set as one torchmetrics class: exact, in constant memory above a budget."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_ad.data.sample import GOOD, Regions
from lightning_ad.evaluation.bootstrap import (
    ImagePixels,
    Intervals,
    image_pixels,
    pixel_intervals,
)
from lightning_ad.evaluation.breakdown import (
    Group,
    bounds_of_details,
    bounds_of_metrics,
    details_of,
    merged_curve,
)
from lightning_ad.evaluation.catalogue import METRICS, PLOTS, of_kind
from lightning_ad.evaluation.checks import check_same_shape
from lightning_ad.evaluation.curve import Curve, ranked
from lightning_ad.evaluation.functional import thin
from lightning_ad.evaluation.pixel_states import PixelStates, counted_pixels

KINDS = (GOOD, "anomalous")  # of defect, if no data set names them


class AnomalyMetrics(PixelStates):
    """All metrics of `METRIC_NAMES` from one sort of the images and one of the pixels.

    Pixels are exact up to a budget, and counted in bins above it, with a notice.

    Args:
        memory_gb: GiB that exact pixels may take on each process, 20 bytes a pixel at the peak. In
            the end a process holds the pixels of all.
        kinds: names of the kinds of defect, to which `update` refers; the same on all processes.
        kwargs: of `torchmetrics.Metric`.

    Attributes:
        plots: after `compute`, the curves of `PLOTS`: x and y of at most 300 points each, empty if
            undefined.
        bounds: between which numbers the exact pixel metrics lie if pixels were counted in bins.
        details: metrics by kind of defect and more, see `details_of`.
        intervals: the 95 % intervals of exact pixel metrics.
    """

    plots: dict[str, tuple[list[float], list[float]]]
    bounds: dict[str, tuple[float, float]]
    details: dict[str, Any]
    intervals: Intervals

    def __init__(self, memory_gb: float = 4.0, kinds: Sequence[str] = KINDS, **kwargs: Any) -> None:
        super().__init__("image_", memory_gb=memory_gb, kinds=kinds, **kwargs)
        self.image_kinds: list[Tensor]
        self.add_state("image_kinds", [], dist_reduce_fx="cat")
        self._forget_results()

    def update(
        self,
        map: Tensor,
        score: Tensor,
        mask: Tensor,
        label: Tensor,
        kind: Tensor | None = None,
        regions: Sequence[Regions | None] = (),
        ignore: Tensor | None = None,
    ) -> None:
        """Takes one batch; B may be 0.

        An image labelled anomalous whose mask is empty has no pixel truth: it counts as an image,
        and its pixels are left out. So are those of an image that is ignored everywhere.

        Args:
            map: float [B, H, W], higher is more anomalous; any range.
            score: float [B], higher is more anomalous; any range.
            mask: bool [B, H, W], true where the part is defective.
            label: int64 or bool [B], 0 good, 1 anomalous.
            kind: int64 [B], the place of the kind of defect in `kinds`; None for the label.
            regions: those of each image if the data set knows their saturation. Their union is the
                image's mask, without ignored pixels: they have none.
            ignore: bool [B, H, W], pixels that do not count, in the mask or outside; None for none.

        Raises:
            TypeError: the mask is not bool.
            ValueError: shapes do not fit each other.
        """
        check_same_shape(map=map, mask=mask)
        check_same_shape(score=score, label=label)
        if len(map) != len(score):
            raise ValueError(
                f"Each image needs a map and a score, got {len(map)} maps and {len(score)} scores."
            )
        if kind is None:
            kind = label.long()
        self._append("image_", score, label.bool())
        self.image_kinds.append(kind.float())
        self._keep_pixels(counted_pixels(map, mask, label, kind, regions, ignore))

    def compute(self) -> dict[str, float]:
        """Returns the metrics of `METRIC_NAMES` over all processes, NaN if undefined.

        Sets the attributes, too.
        """
        image = self._image_groups()
        pixel, saturated = self._pixel_groups()
        curves = {
            "image": merged_curve(image.values()),
            "pixel": merged_curve(pixel.values()),
        }
        self.plots = _plots_of(curves)
        self.details = details_of(image, pixel, saturated, curves)
        if self.binned:
            rank_zero_warn(
                f"The pixels take more than {self.memory_gb:g} GiB and were counted in bins; the "
                "bounds of the exact pixel metrics are stated with them. --metrics_gb allows more."
            )
            self.bounds = bounds_of_metrics(curves["pixel"], of_kind(METRICS, "pixel"))
            self.details["bounds"] = bounds_of_details(pixel, saturated, curves["pixel"])
        self._find_intervals()
        return {name: metric(curves[_ranked_by(name)]) for name, metric in METRICS.items()}

    def reset(self) -> None:
        """Forgets everything seen, and what `compute` has set."""
        super().reset()
        self._forget_results()

    def _forget_results(self) -> None:
        self.plots = {}
        self.bounds = {}
        self.details = {}
        self.intervals = {}

    def _image_groups(self) -> dict[str, Group]:
        """Returns the images of each kind of defect, sorted."""
        scores = self._join("image_scores")
        labels = self._join("image_weights")
        kinds = self._join("image_kinds")
        groups: dict[str, Group] = {}
        for kind in kinds.unique().tolist():
            rows = kinds == kind
            groups[self.kinds[int(kind)]] = ranked(scores[rows], labels[rows])
        return groups

    def _find_intervals(self) -> None:
        """Sets the intervals of all images and of the good ones with each kind of defect."""
        self.intervals = {}
        self.details["by_defect_intervals"] = {}
        images = self._pixels_by_image()
        if images:  # and not bins
            pixels = image_pixels(images)
            self.intervals = pixel_intervals(of_kind(METRICS, "pixel"), pixels)
            self.details["by_defect_intervals"] = self._intervals_by_defect(pixels)

    def _intervals_by_defect(self, pixels: ImagePixels) -> dict[str, Intervals]:
        places, _ = self._places()
        kinds = np.array([self.kinds[place] for place in places])
        found = {}
        for kind in self.kinds:
            if kind != GOOD and kind in kinds:
                among = (kinds == kind) | (kinds == GOOD)
                found[kind] = pixel_intervals(of_kind(METRICS, "pixel"), pixels, among)
        return found


def _plots_of(curves: dict[str, Curve]) -> dict[str, tuple[list[float], list[float]]]:
    plots = {}
    for name, plot in PLOTS.items():
        x, y = thin(*plot.points(curves[_ranked_by(name)]))
        plots[name] = (x.tolist(), y.tolist())
    return plots


def _ranked_by(name: str) -> str:
    """Returns what a metric or a plot ranks: image or pixel."""
    return "pixel" if name.startswith("pixel") else "image"
