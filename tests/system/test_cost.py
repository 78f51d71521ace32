"""Seconds and memory of a run's stages."""

import pytest

from lightning_ad.system import cost
from lightning_ad.system.cost import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """Two seconds and one GiB more at each look."""
    readings = {"seconds": 0.0, "gib": 0.0}

    def look(name, step):
        readings[name] += step
        return readings[name]

    monkeypatch.setattr(cost.time, "perf_counter", lambda: look("seconds", 2.0))
    monkeypatch.setattr(cost, "peak_memory_gib", lambda: {"host": look("gib", 1.0)})


def test_stages_add_up(clock):
    watch = Stopwatch()
    for name in ("fit", "test", "fit"):
        with watch.stage(name):
            pass
    assert watch.seconds == {"fit": 4.0, "test": 2.0}
    assert watch.peaks == {"start": 1.0, "fit": 4.0, "test": 3.0}
    assert watch.peak == {"host": 5.0}


def test_a_resumed_fit_counts_what_came_before(clock):
    watch = Stopwatch()
    watch.go_on({"seconds": 100.0, "host": 50.0})
    with watch.stage("fit"):
        pass
    assert watch.seconds == {"fit": 102.0}
    assert watch.peaks == {"start": 1.0, "fit": 50.0}
    assert watch.peak == {"host": 50.0}


def test_this_process_holds_memory():
    assert 0.01 < cost.peak_memory_gib()["host"] < 1000
