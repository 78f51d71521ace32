"""DRAEM: reconstructive and discriminative sub-networks, trained on synthetic anomalies."""

from lightning_ad.methods.draem.module import DRAEM

__all__ = ["DRAEM"]
