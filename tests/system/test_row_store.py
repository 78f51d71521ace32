from pathlib import Path

import pytest
import torch

from lightning_ad.system import row_store as module
from lightning_ad.system.checkpoints import check_whole, write_whole
from lightning_ad.system.memory import release_all
from lightning_ad.system.row_store import RowStore, share_rows

ROWS = torch.arange(7 * 5, dtype=torch.float32).view(7, 5)


def filled(memory_bytes, dtype=torch.float32):
    store = RowStore(memory_bytes)
    store.resize(7, 5, dtype)
    for which in torch.tensor([3, 0, 6, 5, 1, 4, 2]).split(3):
        store[which] = ROWS[which]
    return store


@pytest.mark.parametrize(("memory_bytes", "blocks"), [(None, 1), (1, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_and_columns_are_given_as_they_were_put(memory_bytes, blocks, dtype, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 2 * 5 * dtype.itemsize)  # two rows a block
    store = filled(memory_bytes, dtype)
    assert len(store.blocks) == blocks
    assert len(store) == 7
    assert store.nbytes == 7 * 5 * dtype.itemsize
    which = torch.tensor([6, 1, 1, 4])
    assert torch.equal(store[which], ROWS[which].to(dtype))
    assert torch.equal(store[which, slice(1, 4)], ROWS[which, 1:4].to(dtype))
    store.resize(9, 5, dtype, keep=6)
    store[torch.tensor([8, 6])] = -ROWS[:2]
    assert torch.equal(
        store[torch.tensor([0, 5, 6, 8])],
        torch.stack([ROWS[0], ROWS[5], -ROWS[1], -ROWS[0]]).to(dtype),
    )


@pytest.mark.parametrize("memory_bytes", [None, 1])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_checkpoint_gives_the_rows_again(memory_bytes, mapped, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "BLOCK_BYTES", 2 * 5 * 4)
    write_whole(filled(memory_bytes).state_dict(), tmp_path / "rows.ckpt")
    check_whole(tmp_path / "rows.ckpt")
    state = torch.load(tmp_path / "rows.ckpt", weights_only=True, mmap=mapped)
    for limit, blocks in ((None, 1), (1, len(state))):
        again = RowStore(limit)
        again.load_state_dict(state)
        assert len(again.blocks) == blocks
        assert torch.equal(again[torch.arange(7)], ROWS)
    with pytest.raises(RuntimeError, match=r"Missing key.*rows\.0"):
        RowStore().load_state_dict({})


def test_a_checkpoint_of_an_earlier_version_is_read():
    store = RowStore(1)
    store.load_state_dict({"rows": ROWS})
    assert torch.equal(store[torch.tensor([5, 2])], ROWS[[5, 2]])


def held(name):
    """Bytes of this process's memory, or the most that it has had since that was counted anew."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").is_file(), reason="only Linux tells what is in memory"
)
def test_a_checkpoint_is_written_with_a_block_in_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 2**20)
    store = RowStore(1)
    store.resize(128, 2**18, torch.float32)  # 128 MiB
    for row in torch.arange(128).split(1):
        store[row] = row.float().expand(1, 2**18)
    release_all()
    Path("/proc/self/clear_refs").write_text("5")  # counts the peak anew
    before = held("VmRSS")
    write_whole(store.state_dict(), tmp_path / "rows.ckpt")
    assert held("VmHWM") - before < 32 * 2**20
    assert (tmp_path / "rows.ckpt").stat().st_size > 128 * 2**20
    again = torch.load(tmp_path / "rows.ckpt", weights_only=True)
    assert [float(block.mean()) for block in again.values()] == [4 * n + 1.5 for n in range(32)]


def shared_by(rank):
    module.BLOCK_BYTES = 3 * 2 * (2 * 2 + 8 + 2 * 4)  # two rows of each process at a time
    rows = [torch.tensor([6, 0, 3, 5, 1]), torch.empty(0, dtype=torch.int64), torch.tensor([2, 4])][
        rank
    ]
    ours, theirs = torch.full((7, 2), -1.0, dtype=torch.float16), torch.full((7,), -1)
    store = RowStore(1)
    store.resize(7, 2, torch.float32)
    ours[rows], theirs[rows], store[rows] = (
        rows[:, None].half(),
        rows * 10,
        rows[:, None].expand(-1, 2).float(),
    )
    share_rows([ours, theirs, store], rows, torch.device("cpu"))
    return ours, theirs, store[torch.arange(7)]


@pytest.mark.distributed
def test_every_process_gets_the_rows_of_the_others(over_processes):
    for ours, theirs, stored in over_processes(3, shared_by):
        assert ours.tolist() == stored.tolist() == [[float(i)] * 2 for i in range(7)]
        assert theirs.tolist() == [10 * i for i in range(7)]
