import mmap
import resource
from pathlib import Path

import pytest
import torch

from lightning_ad.errors import DiskFullError
from lightning_ad.system import memory as module
from lightning_ad.system.memory import VectorStore, allocate, in_memory, release


@pytest.mark.parametrize("memory_bytes", [None, 11 * 8 * 4, 11 * 8 * 4 - 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_vectors_are_stored_in_order_of_arrival(memory_bytes, dtype):
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    store = VectorStore(11, memory_bytes)
    for part in order.split(3):
        store.put(part, part[:, None, None].to(dtype).expand(-1, 2, 4) + 0.5)
        assert store.vectors[:, 1, 2].tolist() == [i + 0.5 for i in store.index.tolist()]
    assert torch.equal(store.index, order)
    assert store.vectors.shape == (11, 2, 4)
    assert store.vectors.dtype == dtype


def test_what_does_not_fit_goes_to_a_file_that_is_gone_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    held = allocate((3, 1000), torch.float32, 12000)
    spilled = allocate((3, 1000), torch.float32, 11999)
    assert in_memory(held)
    assert not in_memory(spilled)
    held[1] = spilled[1] = torch.arange(1000)
    view = spilled[1]
    del spilled
    assert torch.equal(view, held[1])
    assert list(tmp_path.iterdir()) == []


def mapped_bytes():
    """Of this process, as Linux counts them: pages of files that are in its memory."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * resource.getpagesize()


@pytest.mark.skipif(
    not Path("/proc/self/statm").is_file(), reason="only Linux tells what is in memory"
)
def test_pages_of_the_file_do_not_stay_in_memory():
    before, size = mapped_bytes(), 64 * 2**20
    store = VectorStore(size // 2**20, 1)
    for i in range(size // 2**20):
        store.put(torch.tensor([i]), torch.full((1, 256, 1024), float(i)))
    assert mapped_bytes() - before < 4 * 2**20
    total = store.vectors.double().mean(dim=(1, 2))
    assert total.tolist() == store.index.tolist()
    assert mapped_bytes() - before > size // 2
    release(store.vectors)
    assert mapped_bytes() - before < 4 * 2**20


def test_main_memory_is_not_released():
    held = torch.arange(2**18)
    release(held)
    assert torch.equal(held, torch.arange(2**18))


def test_a_full_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DiskFullError) as raised:
        allocate((2**50,), torch.float32, 1)
    assert raised.value.size == 2**52
    assert raised.value.folder == str(tmp_path)


def test_room_is_measured():
    before = module.held_now()
    with mmap.mmap(-1, 2**28) as pages:  # fresh ones: an array may take what another gave back
        pages.write(bytes(2**28))
        assert module.held_now() - before > 2**27
    free = module.available()
    assert free is None or free > 0
