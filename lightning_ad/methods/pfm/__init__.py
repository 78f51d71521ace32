"""PFM: pre-trained feature mapping, basic, bidirectional and multi-hierarchical; PEFM with position encoding."""

from lightning_ad.methods.pfm.model import PFM

__all__ = ["PFM"]
