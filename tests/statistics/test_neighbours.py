import faiss
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from lightning_ad.statistics import neighbours
from lightning_ad.statistics.neighbours import nearest_neighbours


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("offset", [0.0, 5.0])  # away from the origin, |a|^2 - 2ab + |b|^2 cancels
def test_neighbours_are_scikit_learns(count, offset, monkeypatch):
    monkeypatch.setitem(neighbours.QUERIES, "cpu", 7)  # several blocks, the last ones short
    monkeypatch.setitem(neighbours.ROWS, "cpu", 60)
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(500, 16, generator=generator, dtype=torch.float64) + offset
    queries = torch.randn(40, 16, generator=generator, dtype=torch.float64) + offset
    distances, rows = (
        NearestNeighbors(n_neighbors=count, algorithm="brute").fit(bank).kneighbors(queries)
    )
    squared, found = nearest_neighbours(queries.float(), bank.float(), count)
    expected = torch.from_numpy(distances).square().float()
    torch.testing.assert_close(squared, expected, rtol=1e-4, atol=0)
    assert (found == torch.from_numpy(rows)).float().mean() > 0.99


def test_a_vector_of_the_bank_is_at_distance_zero():
    bank = torch.randn(50, 1024) * 30
    squared, found = nearest_neighbours(bank[7:9], bank)
    assert squared.flatten().tolist() == [0, 0]
    assert found.flatten().tolist() == [7, 8]


@pytest.mark.parametrize("count", [1, 9])
def test_neighbours_are_those_of_faiss(count):
    generator = torch.Generator().manual_seed(1)
    bank = torch.rand(3000, 160, generator=generator) * 6
    queries = torch.cat([torch.rand(300, 160, generator=generator) * 6, bank[:20]])
    index = faiss.IndexFlatL2(160)
    index.add(bank.numpy())
    distances, rows = index.search(queries.numpy(), count)
    squared, found = nearest_neighbours(queries, bank, count)
    torch.testing.assert_close(squared, torch.from_numpy(distances), rtol=1e-4, atol=1e-2)
    same = [set(a) == set(b) for a, b in zip(found.tolist(), rows.tolist(), strict=True)]
    assert all(same)
