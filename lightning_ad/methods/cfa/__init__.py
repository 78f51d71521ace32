"""CFA: coupled-hypersphere-based feature adaptation."""

from lightning_ad.methods.cfa.module import CFA

__all__ = ["CFA"]
