"""Images per second and the share of waiting, by a clock of the test's own."""

from types import SimpleNamespace

import pytest

from lightning_ad.callbacks import throughput
from lightning_ad.callbacks.throughput import ThroughputMonitor


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def epoch(clock, *events):
    """What a monitor logs of an epoch of events, each a hook and the time at which it comes."""
    logged = {}
    module = SimpleNamespace(log_dict=lambda values, **_: logged.update(values))
    monitor = ThroughputMonitor()
    for hook, clock.now in events:
        batch = [None, [0] * 4, 0] if hook == "on_train_batch_end" else [[0] * 4, 0]
        getattr(monitor, hook)(None, module, *(batch if "batch" in hook else []))
    return logged


def test_time_between_steps_is_waiting_and_a_validation_is_no_part_of_the_epoch(clock):
    logged = epoch(
        clock,
        ("on_train_epoch_start", 100.0),
        ("on_train_batch_start", 101.0),
        ("on_train_batch_end", 103.0),
        ("on_validation_start", 103.0),
        ("on_validation_end", 153.0),
        ("on_train_batch_start", 154.0),
        ("on_train_batch_end", 156.0),
        ("on_train_epoch_end", 170.0),
    )
    assert logged["images_per_second"] == pytest.approx(8 / 6)
    assert logged["wait_share"] == pytest.approx(2 / 6)
    assert logged["peak_memory_gib_host"] > 0


def test_an_epoch_in_which_a_run_goes_on_has_a_start_too(clock):
    logged = epoch(
        clock,
        ("on_train_start", 10.0),
        ("on_train_batch_start", 10.5),
        ("on_train_batch_end", 12.0),
        ("on_train_epoch_end", 12.0),
    )
    assert logged["images_per_second"] == pytest.approx(2.0)
    assert logged["wait_share"] == pytest.approx(0.25)
