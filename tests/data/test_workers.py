import pytest
import torch

from lightning_ad.data.workers import worker_count


@pytest.mark.parametrize(
    ("device", "draws", "tiled", "expected"),
    [
        ("cpu", False, False, 0),
        ("cpu", False, True, 1),
        ("cpu", True, False, 8),
        ("cpu", True, True, 8),
        ("cuda", False, False, 8),
        ("cuda", False, True, 8),
    ],
)
def test_workers_if_none_are_asked_for(device, draws, tiled, expected, monkeypatch):
    monkeypatch.setattr("lightning_ad.data.workers._cores", lambda: 16)
    assert worker_count(torch.device(device), draws, tiled) == expected


def test_no_more_workers_than_cores(monkeypatch):
    monkeypatch.setattr("lightning_ad.data.workers._cores", lambda: 2)
    assert worker_count(torch.device("cuda"), draws=False, tiled=False) == 2
