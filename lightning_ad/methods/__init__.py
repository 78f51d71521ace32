"""The methods, by the names that `--model` takes."""

from lightning_ad.data.sample import Prediction
from lightning_ad.errors import NotFittedError
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.cfa import CFA
from lightning_ad.methods.draem import DRAEM
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.learned import LearnedModule
from lightning_ad.methods.mahalanobis import MahalanobisAD
from lightning_ad.methods.padim import PaDiM
from lightning_ad.methods.patchcore import PatchCore
from lightning_ad.methods.pfm import PFM
from lightning_ad.methods.spade import SPADE

__all__ = [
    "CFA",
    "DRAEM",
    "PFM",
    "SPADE",
    "AnomalyModule",
    "FitOnlyModule",
    "LearnedModule",
    "MahalanobisAD",
    "NotFittedError",
    "PaDiM",
    "PatchCore",
    "Prediction",
]
