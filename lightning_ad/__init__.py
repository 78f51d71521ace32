"""Visual anomaly detection on PyTorch Lightning.

    import lightning_ad as ad

    data = ad.AnomalyDataModule("mvtec", "data/mvtec", category="bottle", image_size=256)
    run = ad.train(ad.PatchCore(coreset_ratio=0.01), data)
    run.metrics["image_AUROC"], run.predictions, run.report

    inspector = ad.load("runs/patchcore-mvtec-bottle")
    result = inspector("part.png")
    result.score, result.p_value, result.anomalous, result.map

Every name is imported when it is first used: `import lightning_ad` itself is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_ad.commands.api import Run, evaluate, train
    from lightning_ad.data.datamodule import AnomalyDataModule
    from lightning_ad.data.sample import Batch, Prediction, Sample
    from lightning_ad.errors import DataError, NotFittedError, UsageError, UserError, WeightsError
    from lightning_ad.evaluation import AnomalyMetrics, aupro, auroc
    from lightning_ad.inspector import Inspector, Result, load
    from lightning_ad.methods import (
        CFA,
        DRAEM,
        PFM,
        SPADE,
        AnomalyModule,
        FitOnlyModule,
        LearnedModule,
        MahalanobisAD,
        PaDiM,
        PatchCore,
    )

__version__ = "0.1.0"

__all__ = [
    "CFA",
    "DRAEM",
    "PFM",
    "SPADE",
    "AnomalyDataModule",
    "AnomalyMetrics",
    "AnomalyModule",
    "Batch",
    "DataError",
    "FitOnlyModule",
    "Inspector",
    "LearnedModule",
    "MahalanobisAD",
    "NotFittedError",
    "PaDiM",
    "PatchCore",
    "Prediction",
    "Result",
    "Run",
    "Sample",
    "UsageError",
    "UserError",
    "WeightsError",
    "aupro",
    "auroc",
    "evaluate",
    "load",
    "train",
]

_HOMES = {
    "lightning_ad.commands.api": ["Run", "evaluate", "train"],
    "lightning_ad.data.datamodule": ["AnomalyDataModule"],
    "lightning_ad.data.sample": ["Batch", "Prediction", "Sample"],
    "lightning_ad.errors": [
        "DataError",
        "NotFittedError",
        "UsageError",
        "UserError",
        "WeightsError",
    ],
    "lightning_ad.evaluation": ["AnomalyMetrics", "aupro", "auroc"],
    "lightning_ad.inspector": ["Inspector", "Result", "load"],
    "lightning_ad.methods": [
        "CFA",
        "DRAEM",
        "PFM",
        "SPADE",
        "AnomalyModule",
        "FitOnlyModule",
        "LearnedModule",
        "MahalanobisAD",
        "PaDiM",
        "PatchCore",
    ],
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'lightning_ad' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
