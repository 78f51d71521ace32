"""The methods, by the names that `--model` takes."""

from lightning_ad.methods.base import AnomalyModule, NotFittedError, Prediction
from lightning_ad.methods.draem import DRAEM
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.learned import LearnedModule
from lightning_ad.methods.patchcore import PatchCore
from lightning_ad.methods.pfm import PFM

__all__ = [
    "DRAEM",
    "PFM",
    "AnomalyModule",
    "FitOnlyModule",
    "LearnedModule",
    "NotFittedError",
    "PatchCore",
    "Prediction",
]
