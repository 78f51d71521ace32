"""All metrics of a test set as one torchmetrics class: exact, and in constant memory above a budget."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_ad.data.sample import GOOD, Regions
from lightning_ad.evaluation.bootstrap import Intervals, image_pixels, pixel_intervals
from lightning_ad.evaluation.breakdown import Group, bounds_of_details, details, merged_curve
from lightning_ad.evaluation.catalogue import METRICS, PLOTS, of_kind
from lightning_ad.evaluation.curve import ranked
from lightning_ad.evaluation.functional import thin
from lightning_ad.evaluation.histogram import Histogram, add, interval
from lightning_ad.evaluation.regions import region_weights, saturated_weights
from lightning_ad.evaluation.torch_metrics import CurveMetric, same_shape
from lightning_ad.system.distributed import world_size

BYTES = 20  # a pixel takes at the peak: a score, a weight, copies of a kind, and sorted ones
HALF = 1 << 16  # pixels of an image are counted in two parts, which float32 holds exactly
ROWS = 1 << 16  # of bins that are kept from several batches before they are added up
WHAT = ("pixel", "saturated")  # rankings of pixels: with region weights, and with saturated ones


class AnomalyMetrics(CurveMetric):
    """All metrics of `METRIC_NAMES` from one sort of the images and one of the pixels.

    Exact as long as the pixels of all processes fit into the budget of one. From then on they are counted in bins
    (`binning`), in constant memory, with a notice; then `bounds` holds, after `compute()`, between which numbers the
    exact pixel metrics lie. `details` holds metrics by kind of defect and more (`details`), `intervals` how sure the
    exact pixel metrics are (`pixel_intervals`), and `plots` the curves for a report: image ROC, image precision-recall,
    pixel ROC, pixel precision-recall and pixel PRO, each as (x, y) of at most 300 points, empty where undefined.

    Args:
        memory_gb: GiB that the exact pixel metrics may take on each process; 20 bytes a pixel at the peak. In the end
            a process holds the pixels of all.
        kinds: of defect, those that `update` counts; the same on all processes.
        kwargs: of `torchmetrics.Metric`.
    """

    plots: dict[str, tuple[list[float], list[float]]]
    bounds: dict[str, tuple[float, float]]
    details: dict[str, Any]
    intervals: Intervals

    def __init__(
        self, memory_gb: float = 4.0, kinds: Sequence[str] = (GOOD, "anomalous"), **kwargs: Any
    ) -> None:
        super().__init__("image_", "pixel_", **kwargs)
        self.memory_gb, self.kinds = memory_gb, kinds
        self.add_state("image_kinds", [], dist_reduce_fx="cat")
        self.add_state(
            "pixel_places", [], dist_reduce_fx="cat"
        )  # of each image: its kind and pixels (`_places`)
        self.add_state("saturated_weights", [], dist_reduce_fx="cat")
        # Bins are float64, told as float32 because processes can only exchange lists of one type.
        self.add_state("pixel_bins", [], dist_reduce_fx="cat")
        self.plots, self.bounds, self.details, self.intervals, self._held, self._rows = (
            {},
            {},
            {},
            {},
            0,
            ROWS,
        )

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

        An image labelled anomalous whose mask is empty has no pixel truth: it counts as an image, and its
        pixels are left out. So are those of an image that is ignored everywhere.

        Args:
            map: float [B, H, W], higher is more anomalous; any range.
            score: float [B], likewise.
            mask: bool [B, H, W], true where the part is defective.
            label: int64 or bool [B], 0 good, 1 anomalous.
            kind: int64 [B], the place of the kind of defect in `kinds`; None for the label.
            regions: of each image, where the data set knows their saturation; their union is its mask, but for ignored
                pixels, of which they have none.
            ignore: bool [B, H, W], pixels that do not count, of the mask neither; None for none.

        Raises:
            TypeError: the mask is not bool.
            ValueError: shapes do not fit each other.
        """
        same_shape(map=map, mask=mask)
        same_shape(score=score, label=label)
        if len(map) != len(score):
            raise ValueError(
                f"Each image needs a map and a score, but {len(map)} maps met {len(score)} scores."
            )
        kind, seen = (
            label.long() if kind is None else kind,
            torch.ones_like(label, dtype=torch.bool),
        )
        if ignore is not None:
            mask, seen = mask & ~ignore, ~ignore.flatten(1).all(1)
        outlined = seen & (mask.flatten(1).any(1) | ~label.bool())
        self._append("image_", score, label.bool())
        self.image_kinds.append(kind.float())
        kind, kept = kind[outlined], None if ignore is None else ~ignore[outlined]
        counts = (
            kind.new_full((len(kind),), map[:1].numel()) if kept is None else kept.flatten(1).sum(1)
        )
        self.pixel_places.append(
            torch.stack((kind, counts // HALF, counts % HALF), 1).flatten().float()
        )

        def pixels(values: Tensor) -> Tensor:
            return values[outlined] if kept is None else values[outlined][kept]

        self._append("pixel_", pixels(map), pixels(region_weights(mask)))
        if regions:
            pairs = zip(map, regions, strict=True)
            of_each = [
                m.new_zeros(m.shape) if r is None else saturated_weights(m, r) for m, r in pairs
            ]
            self.saturated_weights.append(pixels(torch.stack(of_each)).flatten().float())
        self._held += (BYTES + 4 * bool(regions)) * int(counts.sum())
        if len(self.pixel_bins) or self._held * world_size() > self.memory_gb * 2**30:
            self._put_in_bins()

    def compute(self) -> dict[str, float]:
        """The metrics of `METRIC_NAMES` over all processes, NaN where undefined. Sets the attributes."""
        image = self._images()
        pixel, saturated = self._pixels()
        curves = {
            "image": merged_curve([*image.values()]),
            "pixel": merged_curve([*pixel.values()]),
        }
        self.details = details(image, pixel, saturated, curves)
        if len(self.pixel_bins):
            rank_zero_warn(
                f"The pixels take more than {self.memory_gb:g} GiB and were counted in bins; the bounds of the exact "
                "pixel metrics are stated with them. --metrics_gb allows more."
            )
            metrics = of_kind(METRICS, "pixel")
            self.bounds = {
                name: interval(curves["pixel"], metric) for name, metric in metrics.items()
            }
            self.details["bounds"] = bounds_of_details(pixel, saturated, curves["pixel"])
        points = {name: thin(*plot(curves[name.partition(" ")[0]])) for name, plot in PLOTS.items()}
        self.plots = {name: (x.tolist(), y.tolist()) for name, (x, y) in points.items()}
        self.intervals, self.details["by_defect_intervals"] = self._intervals()
        return {name: metric(curves[name.partition("_")[0]]) for name, metric in METRICS.items()}

    def reset(self) -> None:
        """Forgets everything seen, the plots, the bounds and the details."""
        super().reset()
        self.plots, self.bounds, self.details, self.intervals, self._held, self._rows = (
            {},
            {},
            {},
            {},
            0,
            ROWS,
        )

    def _images(self) -> dict[str, Group]:
        """The images of each kind, sorted."""
        scores, labels, kinds = (
            self._join(f"image_{name}") for name in ("scores", "weights", "kinds")
        )
        return {
            self.kinds[int(kind)]: ranked(scores[kinds == kind], labels[kinds == kind])
            for kind in kinds.unique().tolist()
        }

    def _pixels(self) -> list[dict[str, Group]]:
        """The pixels of each kind for each of `WHAT`, sorted; or their bins, where a process has put them in some."""
        if len(self.pixel_bins):
            self._put_in_bins()
            found: dict[tuple[int, int], Group] = {**_unpack(self._join("pixel_bins"))}
        else:
            found = {}
            for (place, kind), scores, weights in self._by_kind():
                if place == 0:
                    found[place, kind] = ranked(scores, weights)
                    continue
                hits = weights > 0  # the negatives are those of the regions
                found[place, kind] = ranked(scores[hits], weights[hits])._replace(
                    negatives=found[0, kind].negatives
                )
        named = [(place, self.kinds[kind], group) for (place, kind), group in found.items()]
        return [
            {name: group for place, name, group in named if WHAT[place] == what} for what in WHAT
        ]

    def _by_kind(self) -> Iterator[tuple[tuple[int, int], Tensor, Tensor]]:
        """Scores and weights of the pixels held, for each of `WHAT` and each kind."""
        kinds, sizes = self._places()
        scores = self._join("pixel_scores").split(sizes)
        for place, what in enumerate(WHAT):
            weights = self._join(f"{what}_weights")
            if not len(weights):
                continue
            parts = weights.split(sizes)
            for kind in sorted(set(kinds)):
                rows = [i for i, own in enumerate(kinds) if own == kind]
                yield (
                    (place, kind),
                    torch.cat([scores[i] for i in rows]),
                    torch.cat([parts[i] for i in rows]),
                )

    def _intervals(self) -> tuple[Intervals, dict[str, Intervals]]:
        """Of the exact pixel metrics, of all images and of the good ones with each kind of defect; empty in bins."""
        of_each, sizes = self._places()
        if not sizes:
            return {}, {}
        both = (self._join(f"pixel_{name}").cpu().split(sizes) for name in ("scores", "weights"))
        pixels = image_pixels(
            [(scores.numpy(), weights.numpy()) for scores, weights in zip(*both, strict=True)]
        )
        metrics, kinds = of_kind(METRICS, "pixel"), np.array(of_each)
        good = self.kinds.index(GOOD) if GOOD in self.kinds else -1
        by_kind = {
            kind: pixel_intervals(metrics, pixels, (kinds == number) | (kinds == good))
            for number, kind in enumerate(self.kinds)
            if kind != GOOD and number in kinds
        }
        return pixel_intervals(metrics, pixels), by_kind

    def _places(self) -> tuple[list[int], list[int]]:
        """The kind and the number of pixels of each image that is held."""
        places = self._join("pixel_places").reshape(-1, 3).long()
        return places[:, 0].tolist(), (places[:, 1] * HALF + places[:, 2]).tolist()

    def _put_in_bins(self) -> None:
        """Moves the pixels held so far into bins; those of several batches are added up once they are many."""
        counted = {key: Histogram.of(scores, weights) for key, scores, weights in self._by_kind()}
        self.pixel_scores, self.pixel_weights, self.pixel_places, self.saturated_weights = (
            [],
            [],
            [],
            [],
        )
        before = self.pixel_bins if isinstance(self.pixel_bins, list) else [self.pixel_bins]
        self.pixel_bins = [*before, _pack(counted).to(self.device)]
        if sum(part.numel() for part in self.pixel_bins) > 12 * self._rows:
            added = _pack(_unpack(self._join("pixel_bins")))
            self.pixel_bins, self._rows = [added.to(self.device)], max(ROWS, added.numel() // 6)


def _pack(bins: dict[tuple[int, int], Histogram]) -> Tensor:
    """Rows of six float64 (ranking, kind, and those of a histogram), told as float32; the first is of no ranking."""
    rows = [
        np.stack([np.full(len(h.bins), part) for part in key] + [*h], 1) for key, h in bins.items()
    ]
    table = np.concatenate([np.full((1, 6), -1.0), *rows])
    return torch.from_numpy(table).flatten().view(torch.float32)


def _unpack(packed: Tensor) -> dict[tuple[int, int], Histogram]:
    """What `_pack` was given, on all processes together."""
    table = packed.cpu().contiguous().view(torch.float64).reshape(-1, 6).numpy()
    starts = (
        np.flatnonzero((np.diff(table[:, :2], axis=0) != 0).any(1) | (np.diff(table[:, 2]) <= 0))
        + 1
    )
    parts: dict[tuple[int, int], list[Histogram]] = {}
    for part in np.split(table, starts):
        place, kind = int(part[0, 0]), int(part[0, 1])
        if place >= 0:
            parts.setdefault((place, kind), []).append(
                Histogram(*part[:, 2:5].astype(np.int64).T, part[:, 5])
            )
    return {key: add(parts[key]) for key in sorted(parts)}
