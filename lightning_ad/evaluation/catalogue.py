"""The metrics and plots of a test set by name. A new one is one line here."""

from collections.abc import Callable
from functools import partial

from lightning_ad.evaluation.curve import Curve
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


def _f1_max(curve: Curve) -> float:
    return f1_max(curve)[0]


# The first word says what is ranked: images or pixels.
METRICS: dict[str, Metric] = {
    "image_AUROC": auroc,
    "image_AP": average_precision,
    "image_F1Max": _f1_max,
    "pixel_AUROC": auroc,
    "pixel_AP": average_precision,
    "pixel_F1Max": _f1_max,
    "pixel_AUPRO_0.30": partial(aupro, limit=0.30),
    "pixel_AUPRO_0.05": partial(aupro, limit=0.05),
}
METRIC_NAMES: tuple[str, ...] = tuple(METRICS)

# Told beside them; the number is the false-positive rate.
SENSITIVITIES: dict[str, Metric] = {
    f"{what}_sensitivity_{rate:.2f}": partial(sensitivity, rate=rate)
    for what in ("image", "pixel")
    for rate in (0.01, 0.05, 0.10)
}
# Of regions that are found in full once a part of them is (MVTec LOCO).
SATURATED: dict[str, Metric] = {"pixel_AUsPRO_0.05": partial(aupro, limit=0.05)}

PLOTS: dict[str, Callable[[Curve], Points]] = {
    "image ROC": roc,
    "image precision-recall": precision_recall,
    "pixel ROC": roc,
    "pixel precision-recall": precision_recall,
    "pixel PRO": pro,
}


def oracle(name: str) -> str:
    """What to say behind a metric that looks at the test labels to choose its threshold; nothing for others."""
    return "oracle" if name.endswith("F1Max") else ""


def of_kind(metrics: dict[str, Metric], what: str) -> dict[str, Metric]:
    """Those of `image` or `pixel`."""
    return {name: metric for name, metric in metrics.items() if name.startswith(f"{what}_")}
