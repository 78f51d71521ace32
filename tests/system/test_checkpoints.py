"""A checkpoint on disk is whole, whatever happens while the next is written."""

import errno
import os
import zipfile
from pathlib import Path

import pytest
import torch

from lightning_ad.errors import UnreadableError
from lightning_ad.features.weights import read_state
from lightning_ad.system.checkpoints import WholeCheckpoints


class Unwritable:
    """Fails in the middle of a file, as a full disk does."""

    def __reduce__(self):
        raise OSError(28, "No space left on device")


def test_the_checkpoint_before_stays_until_the_next_is_whole(tmp_path):
    path, disk = tmp_path / "run/last.ckpt", WholeCheckpoints()
    disk.save_checkpoint({"epoch": 1, "weights": torch.arange(1000)}, path)
    with pytest.raises(OSError, match="No space left"):
        disk.save_checkpoint(
            {"epoch": 2, "weights": torch.arange(1000), "more": Unwritable()}, path
        )
    found = read_state(path)
    assert found["epoch"] == 1
    assert torch.equal(found["weights"], torch.arange(1000))
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_what_was_read_stays_as_it_was_where_the_file_is_written_again(tmp_path):
    """Tensors stay in the file until they are read; a replaced file goes with its last reader."""
    path, disk = tmp_path / "last.ckpt", WholeCheckpoints()
    disk.save_checkpoint({"weights": torch.full((500_000,), 1.0)}, path)
    first = read_state(path)["weights"]
    disk.save_checkpoint({"weights": torch.full((500_000,), 2.0)}, path)
    assert (first == 1).all()
    assert (read_state(path)["weights"] == 2).all()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_the_system_does_not_give_is_not_called_damaged(number, tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"weights": torch.arange(3)}, path)

    def refused(*_, **__):
        raise OSError(number, os.strerror(number), str(path))

    where = {errno.EACCES: (Path, "open"), errno.EIO: (zipfile.ZipFile, "testzip")}
    monkeypatch.setattr(*where[number], refused)
    with pytest.raises(UnreadableError, match=f"cannot be read: {os.strerror(number)}") as error:
        read_state(path)
    assert "damaged" not in str(error.value)
