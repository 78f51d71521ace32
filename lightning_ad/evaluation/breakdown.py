"""Numbers beside the metrics: by kind of defect, of anomalous images alone, and sensitivities.

All come from the same sort as the metrics.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lightning_ad.data.sample import GOOD
from lightning_ad.evaluation.catalogue import METRICS, SATURATED, SENSITIVITIES, Metric, of_kind
from lightning_ad.evaluation.curve import Curve, Ranked, merge
from lightning_ad.evaluation.functional import f1_max
from lightning_ad.evaluation.histogram import (
    Histogram,
    add_histograms,
    curve_of_histogram,
    exact_bounds,
)

Group = Ranked | Histogram
Groups = Mapping[str, Group]  # by kind of defect, the good images among them


def merged_curve(groups: Iterable[Group]) -> Curve:
    """Returns the curve of several groups, all sorted or all in bins."""
    groups = list(groups)
    histograms = [group for group in groups if isinstance(group, Histogram)]
    if histograms:
        return curve_of_histogram(add_histograms(histograms))
    return merge([group for group in groups if isinstance(group, Ranked)])


def details_of(
    image: Groups, pixel: Groups, saturated: Groups, whole: Mapping[str, Curve]
) -> dict[str, Any]:
    """Returns the numbers beside the metrics.

    Args:
        image: the images.
        pixel: their pixels.
        saturated: the pixels with `saturated_weights`; empty if no region has a saturation.
        whole: the curves of all images and of all pixels, `image` and `pixel`.

    Returns:
        `by_defect`: all metrics of the good images and those of one kind of defect (the good images
        are the same for each); `mean_over_defects`: their mean, of the kinds that have the metric;
        `anomalous_images_only`: pixel metrics without the pixels of good images; `sensitivity`: the
        share found at false-positive rates; `oracle_threshold` and `oracle_pixel_threshold`: the
        scores at which F1-max is reached.
    """
    by_defect = {}
    for kind in sorted({*image, *pixel} - {GOOD}):
        by_defect[kind] = _metrics_of((GOOD, kind), image, pixel, saturated)
    anomalous = _curve_of_anomalous(pixel)
    sensitivity = {}
    for ranked, curve in whole.items():
        sensitivity |= _read(curve, of_kind(SENSITIVITIES, ranked))
    return {
        "by_defect": by_defect,
        "mean_over_defects": _mean(list(by_defect.values())),
        "anomalous_images_only": _read(anomalous, of_kind(METRICS, "pixel")),
        "sensitivity": sensitivity,
        "oracle_threshold": f1_max(whole["image"])[1],
        "oracle_pixel_threshold": f1_max(whole["pixel"])[1],
    }


def bounds_of_metrics(
    curve: Curve, metrics: Mapping[str, Metric]
) -> dict[str, tuple[float, float]]:
    """Returns between which numbers exact metrics lie if scores were counted in bins."""
    return {name: exact_bounds(curve, metric) for name, metric in metrics.items()}


def bounds_of_details(pixel: Groups, saturated: Groups, whole: Curve) -> dict[str, Any]:
    """Returns between which numbers those of `details_of` lie if pixels were counted in bins.

    Args:
        pixel: the histograms of the pixels.
        saturated: the same with `saturated_weights`; empty if no region has a saturation.
        whole: the curve of all pixels.
    """
    of_pixels = of_kind(METRICS, "pixel")
    by_defect = {}
    for kind in sorted(set(pixel) - {GOOD}):
        by_defect[kind] = bounds_of_metrics(_curve_of_kinds(pixel, (GOOD, kind)), of_pixels)
        if saturated:
            curve = _curve_of_kinds(saturated, (GOOD, kind))
            by_defect[kind] |= bounds_of_metrics(curve, SATURATED)
    return {
        "by_defect": by_defect,
        "anomalous_images_only": bounds_of_metrics(_curve_of_anomalous(pixel), of_pixels),
        "sensitivity": bounds_of_metrics(whole, of_kind(SENSITIVITIES, "pixel")),
    }


def _metrics_of(
    kinds: Sequence[str], image: Groups, pixel: Groups, saturated: Groups
) -> dict[str, float]:
    found = {}
    if image:
        found |= _read(_curve_of_kinds(image, kinds), of_kind(METRICS, "image"))
    if pixel:
        found |= _read(_curve_of_kinds(pixel, kinds), of_kind(METRICS, "pixel"))
    if saturated:
        found |= _read(_curve_of_kinds(saturated, kinds), SATURATED)
    return found


def _curve_of_kinds(groups: Groups, kinds: Sequence[str]) -> Curve:
    return merged_curve(groups[kind] for kind in kinds if kind in groups)


def _curve_of_anomalous(groups: Groups) -> Curve:
    return merged_curve(group for kind, group in groups.items() if kind != GOOD)


def _read(curve: Curve, metrics: Mapping[str, Metric]) -> dict[str, float]:
    return {name: metric(curve) for name, metric in metrics.items()}


def _mean(of_each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each metric over those that have it; NaN if none has."""
    names: dict[str, None] = {}
    for one in of_each:
        names |= dict.fromkeys(one)
    means = {}
    for name in names:
        values = np.array([one.get(name, np.nan) for one in of_each])
        known = values[~np.isnan(values)]
        means[name] = float(known.mean()) if known.size else float("nan")
    return means
