"""The pixels of a test set as states of a metric: exact up to a budget, in bins above it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_ad.data.sample import Regions
from lightning_ad.evaluation.breakdown import Group
from lightning_ad.evaluation.curve import Ranked, ranked
from lightning_ad.evaluation.histogram import (
    GroupKey,
    Histogram,
    pack_histograms,
    unpack_histograms,
)
from lightning_ad.evaluation.regions import region_weights, saturated_weights
from lightning_ad.evaluation.torch_metrics import CurveMetric
from lightning_ad.system.distributed import world_size

BYTES_PER_PIXEL = 20  # at the peak: score, weight, copies of a kind, and sorted ones
SATURATED_BYTES = 4  # more, if a pixel has a saturated weight
HALF = 1 << 16  # an image's number of pixels is kept in two parts, which float32 holds exactly
ROWS = 1 << 16  # of bins that are kept from several batches before they are added up
FLOATS_A_ROW = 12  # float32 that a packed row of bins takes
RANKINGS = ("pixel", "saturated")  # of pixels: by region weights, and by saturated ones


class CountedPixels(NamedTuple):
    """The pixels of a batch that count, image after image, n in all.

    Attributes:
        scores: float [n].
        weights: float32 [n], the region weights.
        saturated: float32 [n], the saturated weights; None if the data set knows no saturation.
        kinds: int64 [I], the kind of defect of each image that has such pixels.
        sizes: int64 [I], the number of its pixels.
    """

    scores: Tensor
    weights: Tensor
    saturated: Tensor | None
    kinds: Tensor
    sizes: Tensor


def counted_pixels(
    map: Tensor,
    mask: Tensor,
    label: Tensor,
    kind: Tensor,
    regions: Sequence[Regions | None],
    ignore: Tensor | None,
) -> CountedPixels:
    """Returns the pixels of a batch that count, see `AnomalyMetrics.update`."""
    seen = torch.ones_like(label, dtype=torch.bool)
    if ignore is not None:
        mask = mask & ~ignore
        seen = ~ignore.flatten(1).all(1)
    has_truth = seen & (mask.flatten(1).any(1) | ~label.bool())
    kinds = kind[has_truth]
    if ignore is None:
        sizes = kinds.new_full((len(kinds),), map[:1].numel())
        counts = has_truth
    else:
        sizes = (~ignore[has_truth]).flatten(1).sum(1)
        counts = has_truth[:, None, None] & ~ignore
    saturated = None
    if regions:
        saturated = _saturated(map, regions)[counts].flatten()
    weights = region_weights(mask)[counts].flatten()
    return CountedPixels(map[counts].flatten(), weights, saturated, kinds, sizes)


def _saturated(map: Tensor, regions: Sequence[Regions | None]) -> Tensor:
    weights = []
    for scores, own in zip(map, regions, strict=True):
        if own is None:
            weights.append(scores.new_zeros(scores.shape))
        else:
            weights.append(saturated_weights(scores, own))
    return torch.stack(weights)


class PixelStates(CurveMetric):
    """Keeps the pixels of all processes.

    They are exact as long as all of them fit into the budget of one process. From then on they are
    counted in bins (`histogram`), in constant memory.

    Args:
        prefixes: of other rankings, as `CurveMetric` takes them.
        memory_gb: GiB that exact pixels may take on each process, 20 bytes a pixel at the peak. In
            the end a process holds the pixels of all.
        kinds: names of the kinds of defect.
        kwargs: of `torchmetrics.Metric`.
    """

    def __init__(
        self, *prefixes: str, memory_gb: float, kinds: Sequence[str], **kwargs: Any
    ) -> None:
        super().__init__(*prefixes, "pixel_", **kwargs)
        self.memory_gb = memory_gb
        self.kinds = kinds
        # Of each image three numbers: its kind, and the two parts of its number of pixels.
        self.add_state("pixel_places", [], dist_reduce_fx="cat")
        self.add_state("saturated_weights", [], dist_reduce_fx="cat")
        self.add_state("pixel_bins", [], dist_reduce_fx="cat")  # see `pack_histograms`
        self._held_bytes = 0
        self._rows = ROWS

    def begin(self, memory_gb: float, kinds: Sequence[str]) -> None:
        """Forgets all that was seen, and takes the budget and the kinds of defect of a new test."""
        self.reset()
        self.memory_gb = memory_gb
        self.kinds = kinds

    def reset(self) -> None:
        super().reset()
        self._held_bytes = 0
        self._rows = ROWS

    @property
    def binned(self) -> bool:
        """Returns whether a process has counted pixels in bins."""
        return len(self.pixel_bins) > 0

    def _keep_pixels(self, pixels: CountedPixels) -> None:
        self._append("pixel_", pixels.scores, pixels.weights)
        parts = (pixels.kinds, pixels.sizes // HALF, pixels.sizes % HALF)
        self.pixel_places.append(torch.stack(parts, 1).flatten().float())
        bytes_each = BYTES_PER_PIXEL
        if pixels.saturated is not None:
            self.saturated_weights.append(pixels.saturated.float())
            bytes_each += SATURATED_BYTES
        self._held_bytes += bytes_each * int(pixels.sizes.sum())
        if self.binned or self._held_bytes * world_size() > self.memory_gb * 2**30:
            self._switch_to_histograms()

    def _switch_to_histograms(self) -> None:
        """Moves the pixels held so far into bins; adds up those of several batches once many."""
        counted = {}
        for key, scores, weights in self._pixels_by_kind():
            counted[key] = Histogram.of(scores, weights)
        self.pixel_scores = []
        self.pixel_weights = []
        self.pixel_places = []
        self.saturated_weights = []
        before = self.pixel_bins
        if isinstance(before, Tensor):
            before = [before]
        self.pixel_bins = [*before, pack_histograms(counted).to(self.device)]
        held = sum(part.numel() for part in self.pixel_bins)
        if held > FLOATS_A_ROW * self._rows:
            added = pack_histograms(unpack_histograms(self._join("pixel_bins")))
            self.pixel_bins = [added.to(self.device)]
            self._rows = max(ROWS, 2 * added.numel() // FLOATS_A_ROW)

    def _pixel_groups(self) -> list[dict[str, Group]]:
        """Returns the pixels by kind of defect for each of `RANKINGS`, sorted or in bins."""
        groups = self._binned_groups() if self.binned else self._sorted_groups()
        by_ranking: list[dict[str, Group]] = [{} for _ in RANKINGS]
        for key, group in groups.items():
            by_ranking[key.ranking][self.kinds[key.kind]] = group
        return by_ranking

    def _binned_groups(self) -> dict[GroupKey, Histogram]:
        self._switch_to_histograms()  # a process may have switched when another had not yet
        return unpack_histograms(self._join("pixel_bins"))

    def _sorted_groups(self) -> dict[GroupKey, Ranked]:
        groups: dict[GroupKey, Ranked] = {}
        for key, scores, weights in self._pixels_by_kind():
            if key.ranking == 0:
                groups[key] = ranked(scores, weights)
            else:
                hits = weights > 0
                negatives = groups[GroupKey(0, key.kind)].negatives  # those of the regions
                groups[key] = ranked(scores[hits], weights[hits])._replace(negatives=negatives)
        return groups

    def _pixels_by_kind(self) -> Iterator[tuple[GroupKey, Tensor, Tensor]]:
        """Yields scores and weights of pixels held, for each ranking and each kind of defect."""
        kinds, sizes = self._places()
        scores = self._join("pixel_scores").split(sizes)
        for ranking, name in enumerate(RANKINGS):
            joined = self._join(f"{name}_weights")
            if not len(joined):
                continue
            weights = joined.split(sizes)
            for kind in sorted(set(kinds)):
                rows = [row for row, own in enumerate(kinds) if own == kind]
                some = torch.cat([scores[row] for row in rows])
                gains = torch.cat([weights[row] for row in rows])
                yield GroupKey(ranking, kind), some, gains

    def _pixels_by_image(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Returns scores and region weights of each image that is held."""
        _, sizes = self._places()
        if not sizes:
            return []
        scores = self._join("pixel_scores").cpu().split(sizes)
        weights = self._join("pixel_weights").cpu().split(sizes)
        images = []
        for some, gains in zip(scores, weights, strict=True):
            images.append((some.numpy(), gains.numpy()))
        return images

    def _places(self) -> tuple[list[int], list[int]]:
        """Returns the kind and the number of pixels of each image that is held."""
        places = self._join("pixel_places").reshape(-1, 3).long()
        kinds, high, low = places.unbind(1)
        return kinds.tolist(), (high * HALF + low).tolist()
