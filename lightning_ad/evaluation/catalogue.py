"""The metrics and plots of a test set by name. A new one is one line here.

A metric of a curve is a line of `METRICS`, one that is not of a curve a line of `EVALUATORS`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from lightning_ad.evaluation.curve import Curve
from lightning_ad.evaluation.evaluator import Evaluator
from lightning_ad.evaluation.functional import (
    Points,
    aupro,
    auroc,
    average_precision,
    f1_max,
    precision_recall,
    pro,
    roc,
    sensitivity,
)

Metric = Callable[[Curve], float]


class Plot(NamedTuple):
    """A curve of the report.

    Attributes:
        points: its x and y.
        x: the name of the x axis.
        y: the name of the y axis.
    """

    points: Callable[[Curve], Points]
    x: str
    y: str


def _best_f1(curve: Curve) -> float:
    return f1_max(curve)[0]


def _sensitivities() -> dict[str, Metric]:
    found = {}
    for ranked in ("image", "pixel"):
        for rate in (0.01, 0.05, 0.10):
            found[f"{ranked}_sensitivity_{rate:.2f}"] = partial(sensitivity, rate=rate)
    return found


# The first word of a name says what is ranked: images or pixels.
METRICS: dict[str, Metric] = {
    "image_AUROC": auroc,
    "image_AP": average_precision,
    "image_F1Max": _best_f1,
    "pixel_AUROC": auroc,
    "pixel_AP": average_precision,
    "pixel_F1Max": _best_f1,
    "pixel_AUPRO_0.30": partial(aupro, limit=0.30),
    "pixel_AUPRO_0.05": partial(aupro, limit=0.05),
}
METRIC_NAMES: tuple[str, ...] = tuple(METRICS)

# What makes each evaluator of a test: a class, or a function without arguments.
EVALUATORS: tuple[Callable[[], Evaluator], ...] = ()

# Given beside the metrics, under `details`; the number is the false-positive rate.
SENSITIVITIES: dict[str, Metric] = _sensitivities()
# Of regions that are found in full once a part of them is (MVTec LOCO).
SATURATED: dict[str, Metric] = {"pixel_AUsPRO_0.05": partial(aupro, limit=0.05)}

PLOTS: dict[str, Plot] = {
    "image ROC": Plot(roc, "false positive rate", "true positive rate"),
    "image precision-recall": Plot(precision_recall, "recall", "precision"),
    "pixel ROC": Plot(roc, "false positive rate", "true positive rate"),
    "pixel PRO": Plot(pro, "false positive rate", "per-region overlap"),
    "pixel precision-recall": Plot(precision_recall, "recall", "precision"),
}


def oracle(name: str) -> str:
    """Returns the remark on metrics that choose a threshold by the test labels, else nothing."""
    return "oracle" if name.endswith("F1Max") else ""


def of_kind(metrics: dict[str, Metric], what: str) -> dict[str, Metric]:
    """Returns the metrics whose name starts with `image_` or `pixel_`; `what` is either word."""
    return {name: metric for name, metric in metrics.items() if name.startswith(f"{what}_")}
