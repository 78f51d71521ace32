import pytest

from lightning_ad.statistics import grid_hierarchy


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Small grids, too, are worked on in several blocks."""
    monkeypatch.setattr(grid_hierarchy, "BLOCK_BYTES", 500)
