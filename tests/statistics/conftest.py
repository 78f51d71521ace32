import pytest

from lightning_ad.statistics import grid_hierarchy as nesting


@pytest.fixture(autouse=True)
def few_roots_at_a_time(monkeypatch):
    """Small grids, too, are worked on in several turns."""
    monkeypatch.setattr(nesting, "HELD", 500)
