"""PatchCore."""

from lightning_ad.methods.patchcore.module import PatchCore

__all__ = ["PatchCore"]
