"""PFM: pre-trained feature mapping, and PEFM, which adds a position encoding."""

from lightning_ad.methods.pfm.model import PFM

__all__ = ["PFM"]
