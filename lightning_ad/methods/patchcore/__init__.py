"""PatchCore."""

from lightning_ad.methods.patchcore.model import PatchCore

__all__ = ["PatchCore"]
