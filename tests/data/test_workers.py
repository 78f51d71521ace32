import pytest
import torch
from torch.utils.data import DataLoader

from lightning_ad.cli.messages import explain
from lightning_ad.data import workers
from lightning_ad.data.sample import Batch, Regions
from lightning_ad.data.workers import collate_in_worker, worker_count
from lightning_ad.errors import UsageError


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


def rows(*numbers):
    return [
        Batch(
            image=torch.full((1, 3, 4, 4), float(number)),
            label=torch.tensor([0]),
            mask=torch.zeros(1, 4, 4, dtype=torch.bool),
            index=torch.tensor([number]),
            path=[str(number)],
            defect=["good"],
            recipe={"seed": torch.tensor([number])},
            regions=[Regions(torch.ones(1, 4, 4, dtype=torch.bool), torch.ones(1))],
            ignore=torch.zeros(1, 4, 4, dtype=torch.bool),
        )
        for number in numbers
    ]


def test_a_batch_that_the_shared_memory_cannot_take_ends_the_run_and_not_its_patience(monkeypatch):
    """As with Docker's 64 MB: a thread behind the worker would lose it, and the run would wait."""
    loader = DataLoader(rows(1, 2), batch_size=2, num_workers=1, collate_fn=collate_in_worker)
    (batch,) = loader
    shared = [batch.image, batch.label, batch.mask, batch.index, batch.ignore]
    assert all(tensor.is_shared() for tensor in (*shared, *batch.recipe.values()))
    assert all(tensor.is_shared() for regions in batch.regions for tensor in regions)
    assert batch.image[:, 0, 0, 0].tolist() == [1, 2]
    assert not collate_in_worker(rows(1)).image.is_shared()

    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </t>: No space left")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(RuntimeError, match="unable to allocate") as lost:
        list(loader)
    sentence = explain(lost.value)
    assert sentence.startswith("the memory that workers share is full (RuntimeError: unable to al")
    assert "\n" not in sentence
    assert "--shm-size" in sentence


def test_too_few_open_files_are_a_sentence_and_not_a_wait(monkeypatch):
    limits = {"now": 20, "most": 20}
    monkeypatch.setattr(workers.resource, "getrlimit", lambda _: (limits["now"], limits["most"]))
    monkeypatch.setattr(workers.resource, "setrlimit", lambda _, pair: limits.update(now=pair[0]))
    workers.check_open_files(0)
    with pytest.raises(UsageError, match=r"may open 20 files.*1 workers need 96.*num_workers to 0"):
        workers.check_open_files(1)
    limits["most"] = 4096
    workers.check_open_files(2)
    assert limits["now"] == 128
