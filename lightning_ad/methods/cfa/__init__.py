"""CFA: coupled-hypersphere-based feature adaptation."""

from lightning_ad.methods.cfa.model import CFA

__all__ = ["CFA"]
