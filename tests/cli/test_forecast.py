"""What a forecast is made of; that it is near what is measured is shown by benchmarks/methods_table.py."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_ad.cli import forecast
from lightning_ad.cli.forecast import FEW, Speed, measure, seconds, table
from lightning_ad.methods.forecast import Stage


@pytest.fixture
def machine(monkeypatch):
    """Sets cores and threads."""

    def of(cores, threads):
        monkeypatch.setattr(forecast.os, "cpu_count", lambda: cores)
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)

    return of


@pytest.mark.parametrize(
    ("cores", "threads", "workers", "together", "an_image"),
    [
        (2, 2, 0, 8, 3.0 + 4.0 / 2),  # two threads read, then the network works
        (2, 2, 0, 1, 3.0 + 4.0),  # images come one by one
        (2, 2, 1, 8, 3.0 + 4.0),  # no core is free for the worker
        (8, 2, 4, 8, 3.0),  # workers read meanwhile
        (8, 2, 1, 8, 4.0),  # but one is slower than the network
        (2, 4, 0, 8, 3.0 + 4.0 / 2),
    ],
)
def test_reading_beside_the_network(machine, cores, threads, workers, together, an_image):
    machine(cores, threads)
    speed = Speed(reading=4.0, network=3.0, operations=100.0)
    stage = Stage("Testing", 0.0, images=10, operations=1000.0, writing=0.5)
    found = seconds(stage, speed, workers, together)
    assert found == pytest.approx(
        forecast.STARTING + 10 * (an_image + 0.5) + forecast.MARGIN * 1000 / 100
    )


@pytest.mark.parametrize(
    ("quick", "batch", "sizes"), [(True, 32, {FEW, 32}), (True, 4, {FEW}), (False, 32, {FEW})]
)
def test_a_batch_is_measured_where_images_are_quick(tmp_path, monkeypatch, quick, batch, sizes):
    monkeypatch.setattr(forecast, "QUICK", 1e9 if quick else 0.0)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "a.png")
    seen, read = set(), []

    def extract_features(images):
        seen.add(len(images))
        assert images.shape[1:] == (3, 16, 24)

    def reader(path):
        with Image.open(path) as image:
            read.append((image.size, image.mode, image.format))

    speed = measure(
        extract_features, reader, str(tmp_path / "a.png"), 16, 24, batch, torch.device("cpu")
    )
    assert seen == sizes
    assert set(read) == {((30, 20), "L", "PNG")}  # made up like the file
    assert min(speed) > 0


def test_a_file_that_cannot_be_read_costs_nothing_here(tmp_path):
    speed = measure(torch.Tensor.sum, str, str(tmp_path / "none.png"), 8, 8, 1, torch.device("cpu"))
    assert speed.reading == 0.0


def test_the_table(machine, monkeypatch):
    machine(2, 2)
    monkeypatch.setattr(forecast, "STARTING", 0.0)
    stages = [Stage("Reading images", 2**30, 100), Stage("Testing", 2**31, 1000)]
    title, reading, testing = table(stages, Speed(0.1, 0.2, 1.0), 0, 8).splitlines()
    assert title.split() == ["Forecast", "memory", "time"]
    assert reading.split()[-2:] == ["25", "s"]
    assert testing.split()[-2:] == ["4.2", "min"]
    held = [float(line.split()[-4]) for line in (reading, testing)]
    assert held[1] - held[0] == pytest.approx(1.0, abs=0.02)
