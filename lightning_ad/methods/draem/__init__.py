"""DRAEM: reconstructive and discriminative sub-networks, trained on synthetic anomalies."""

from lightning_ad.methods.draem.model import DRAEM

__all__ = ["DRAEM"]
