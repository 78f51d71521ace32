"""Beside the eight metrics: by kind of defect, of anomalous images alone, and sensitivities; from the same sort."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_ad.data.sample import GOOD
from lightning_ad.evaluation import histogram as binning
from lightning_ad.evaluation.catalogue import METRICS, SATURATED, SENSITIVITIES, Metric, of_kind
from lightning_ad.evaluation.curve import Curve, Ranked, merge
from lightning_ad.evaluation.functional import f1_max
from lightning_ad.evaluation.histogram import Histogram

Group = Ranked | Histogram
Groups = Mapping[str, Group]  # by kind of defect, the good images among them


def merged_curve(groups: Sequence[Group]) -> Curve:
    """The curve of several groups, all sorted or all in bins."""
    if histograms := [group for group in groups if isinstance(group, Histogram)]:
        return binning.curve(binning.add(histograms))
    return merge([group for group in groups if isinstance(group, Ranked)])


def details(
    image: Groups, pixel: Groups, saturated: Groups, whole: Mapping[str, Curve]
) -> dict[str, Any]:
    """What a test set tells beside the eight metrics.

    Args:
        image: the images.
        pixel: their pixels.
        saturated: the pixels with `saturated_weights`; empty where no region has a saturation.
        whole: the curves of all images and of all pixels, `image` and `pixel`.

    Returns:
        `by_defect`: all metrics of the good images and those of one kind of defect (the good images are the same for
        each); `mean_over_defects`: their mean, of the kinds that have the metric; `anomalous_images_only`: pixel
        metrics without the pixels of good images; `sensitivity`: the share found at false-positive rates;
        `oracle_threshold` and `oracle_pixel_threshold`: the scores at which F1-max is reached.
    """
    kinds = sorted({*image, *pixel} - {GOOD})
    by_defect = {kind: _of((GOOD, kind), image, pixel, saturated) for kind in kinds}
    alone = merged_curve([group for kind, group in pixel.items() if kind != GOOD])
    return {
        "by_defect": by_defect,
        "mean_over_defects": _mean([*by_defect.values()]),
        "anomalous_images_only": _read(alone, of_kind(METRICS, "pixel")),
        "sensitivity": {
            name: metric(whole[name.partition("_")[0]]) for name, metric in SENSITIVITIES.items()
        },
        "oracle_threshold": f1_max(whole["image"])[1],
        "oracle_pixel_threshold": f1_max(whole["pixel"])[1],
    }


def bounds_of_details(pixel: Groups, saturated: Groups, whole: Curve) -> dict[str, Any]:
    """Between which numbers the exact ones of `details` lie, where pixels are in bins (`binning.interval`)."""

    def bounds(curve: Curve, metrics: Mapping[str, Metric]) -> dict[str, tuple[float, float]]:
        return {name: binning.interval(curve, metric) for name, metric in metrics.items()}

    of_pixels = of_kind(METRICS, "pixel")
    by_defect = {}
    for kind in sorted({*pixel} - {GOOD}):
        by_defect[kind] = bounds(_both(pixel, (GOOD, kind)), of_pixels)
        if saturated:
            by_defect[kind] |= bounds(_both(saturated, (GOOD, kind)), SATURATED)
    return {
        "by_defect": by_defect,
        "anomalous_images_only": bounds(
            merged_curve([g for kind, g in pixel.items() if kind != GOOD]), of_pixels
        ),
        "sensitivity": bounds(whole, of_kind(SENSITIVITIES, "pixel")),
    }


def _of(kinds: Sequence[str], image: Groups, pixel: Groups, saturated: Groups) -> dict[str, float]:
    found = {}
    for groups, metrics in (
        (image, of_kind(METRICS, "image")), (pixel, of_kind(METRICS, "pixel")), (saturated, SATURATED)
    ):  # fmt: skip
        if groups:
            found.update(_read(_both(groups, kinds), metrics))
    return found


def _both(groups: Groups, kinds: Sequence[str]) -> Curve:
    return merged_curve([groups[kind] for kind in kinds if kind in groups])


def _read(curve: Curve, metrics: Mapping[str, Metric]) -> dict[str, float]:
    return {name: metric(curve) for name, metric in metrics.items()}


def _mean(of_each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = list(dict.fromkeys(name for one in of_each for name in one))
    values = {name: np.array([one.get(name, np.nan) for one in of_each]) for name in names}
    return {
        name: float(v[~np.isnan(v)].mean()) if (~np.isnan(v)).any() else float("nan")
        for name, v in values.items()
    }
