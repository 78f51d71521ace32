import pytest
import torch

from lightning_ad.statistics.store import VectorStore, _sort_rows


@pytest.mark.parametrize("seed", range(5))
def test_vectors_come_back_in_the_order_of_the_images(seed):
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    store = VectorStore(11)
    for part in order.split(3):
        store.put(part, part[:, None, None].float().expand(-1, 2, 4) + 0.5)
    collected = store.collect(torch.device("cpu"))
    assert collected[:, 1, 2].tolist() == [i + 0.5 for i in range(11)]


def test_images_that_never_came_leave_no_rows():
    store = VectorStore(10)
    store.put(torch.tensor([7, 2]), torch.tensor([[[7.0]], [[2.0]]]))
    assert store.collect(torch.device("cpu")).flatten().tolist() == [2, 7]


def test_sorting_in_place_is_sorting():
    keys = torch.randperm(200)
    rows = keys[:, None] * torch.ones(3)
    assert torch.equal(_sort_rows(rows, keys)[:, 0], torch.arange(200.0))
