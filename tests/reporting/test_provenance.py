"""What tells one test set from another."""

import os

import pytest
from PIL import Image

from lightning_ad.data.sample import Sample
from lightning_ad.reporting.provenance import fingerprint


@pytest.fixture
def samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), int(path.stem)).save(path)
    return lambda folder: [Sample(f"{folder}/{i}.png", "test") for i in range(2)]


def test_it_is_the_same_wherever_the_images_are_and_whatever_their_order(samples, tmp_path):
    one = fingerprint(samples("a"))
    assert one == fingerprint(samples("b")) == fingerprint(samples("a")[::-1])
    assert one == fingerprint(
        [Sample("a/0.png", "test"), Sample(str(tmp_path / "a/1.png"), "test")]
    )


def test_names_kinds_and_sizes_tell(samples, tmp_path):
    found = {fingerprint(samples("a")), fingerprint([]), fingerprint(samples("a")[:1])}
    found.add(fingerprint([Sample("a/0.png", "test", "dent"), Sample("a/1.png", "test")]))
    found.add(
        fingerprint([Sample("a/0.png", "test", "dent", "b/0.png"), Sample("a/1.png", "test")])
    )
    os.truncate(tmp_path / "b/1.png", 20)
    found.add(fingerprint(samples("b")))
    assert len(found) == 6
