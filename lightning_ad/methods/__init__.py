"""The methods, by the names that `--model` takes."""

from lightning_ad.methods.base import AnomalyModule, NotFittedError, Prediction
from lightning_ad.methods.draem import DRAEM
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.patchcore import PatchCore

__all__ = ["DRAEM", "AnomalyModule", "FitOnlyModule", "NotFittedError", "PatchCore", "Prediction"]
