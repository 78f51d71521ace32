"""What the user is told if features do not fit into memory, or not on the disk."""

import logging

import pytest
import torch

from lightning_ad.errors import UserError
from lightning_ad.methods.feature_storage import put_features, resize_gallery
from lightning_ad.system import memory
from lightning_ad.system.memory import VectorStore
from lightning_ad.system.row_store import RowStore


def put(memory_bytes):
    store = VectorStore(4, memory_bytes)
    for index in torch.arange(4).split(2):
        put_features(store, index, torch.zeros(2, 3, 5))


def resize(memory_bytes):
    resize_gallery(RowStore(memory_bytes), 4, 15, torch.float32)


@pytest.mark.parametrize("allocate", [put, resize])
def test_a_file_is_announced_once(allocate, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(memory.tempfile, "tempdir", str(tmp_path))
    with caplog.at_level(logging.INFO):
        allocate(4 * 3 * 5 * 4)
        assert caplog.text == ""
        allocate(4 * 3 * 5 * 4 - 1)
    (message,) = caplog.messages
    assert f"model.memory_gb leaves 2.23e-07: they go to a temporary file in {tmp_path}" in message


@pytest.mark.parametrize("allocate", [put, resize])
def test_a_full_disk_names_the_ways_out(allocate, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory, "_reserve", fail)
    message = r"no room for them \(No space left on device\).* TMPDIR, or raise model\.memory_gb"
    with pytest.raises(UserError, match=message):
        allocate(1)
