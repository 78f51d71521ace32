"""The methods, by the names that `--model` takes."""

from lightning_ad.data.sample import Prediction as Prediction
from lightning_ad.errors import NotFittedError as NotFittedError
from lightning_ad.methods.base import AnomalyModule as AnomalyModule
from lightning_ad.methods.cfa.model import CFA as CFA
from lightning_ad.methods.draem.model import DRAEM as DRAEM
from lightning_ad.methods.fit_only import FitOnlyModule as FitOnlyModule
from lightning_ad.methods.learned import LearnedModule as LearnedModule
from lightning_ad.methods.mahalanobis import MahalanobisAD as MahalanobisAD
from lightning_ad.methods.padim import PaDiM as PaDiM
from lightning_ad.methods.patchcore.model import PatchCore as PatchCore
from lightning_ad.methods.pfm.model import PFM as PFM
from lightning_ad.methods.run_settings import RunSettings as RunSettings
from lightning_ad.methods.spade import SPADE as SPADE
