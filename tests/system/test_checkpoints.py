"""A checkpoint on disk is whole, whatever happens while the next is written."""

import pytest
import torch

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
