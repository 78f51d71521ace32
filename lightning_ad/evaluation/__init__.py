"""How well anomalies are found: curves from one sort, torchmetrics classes, thresholds."""

from lightning_ad.evaluation.anomaly_metrics import AnomalyMetrics
from lightning_ad.evaluation.catalogue import METRIC_NAMES
from lightning_ad.evaluation.curve import Curve, curve_of
from lightning_ad.evaluation.evaluator import Evaluator
from lightning_ad.evaluation.functional import (
    aupro,
    auroc,
    average_precision,
    f1_max,
    precision_recall,
    pro,
    roc,
    sensitivity,
    thin,
)
from lightning_ad.evaluation.regions import region_weights, saturated_weights
from lightning_ad.evaluation.thresholds import (
    conformal_p_values,
    conformal_threshold,
    images_needed,
)
from lightning_ad.evaluation.torch_metrics import (
    AUPRO,
    AUROC,
    AveragePrecision,
    F1Max,
    RankingMetric,
)

__all__ = [
    "AUPRO",
    "AUROC",
    "METRIC_NAMES",
    "AnomalyMetrics",
    "AveragePrecision",
    "Curve",
    "Evaluator",
    "F1Max",
    "RankingMetric",
    "aupro",
    "auroc",
    "average_precision",
    "conformal_p_values",
    "conformal_threshold",
    "curve_of",
    "f1_max",
    "images_needed",
    "precision_recall",
    "pro",
    "region_weights",
    "roc",
    "saturated_weights",
    "sensitivity",
    "thin",
]
