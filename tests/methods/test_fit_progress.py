"""What an unfinished fit keeps on disk: whole saves, of its own images, on all processes."""

from types import SimpleNamespace

import pytest
import torch

from lightning_ad.errors import UserError, WeightsError
from lightning_ad.methods import fit_progress
from lightning_ad.methods.fit_progress import IMAGES, FitProgress, ProgressFiles

CPU = torch.device("cpu")


class Rows:
    """A method that has observed numbered rows."""

    def __init__(self, cumulative=False):
        self.cumulative = cumulative
        self.rows = []

    def partial_state(self, first):
        yield {"rows": torch.tensor(self.rows if self.cumulative else self.rows[first:])}

    def restore(self, piece):
        rows = piece["rows"].tolist()
        self.rows = rows if self.cumulative else [*self.rows, *rows]


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(fit_progress, "time", clock)
    return clock


def progress(folder, minutes=0.0, identity=("images", 7)):
    return FitProgress(ProgressFiles(folder, identity), minutes, CPU)


def observe(method, kept, batches):
    for batch in batches:
        method.rows += batch
        kept.count_batch(method, len(method.rows))


@pytest.mark.parametrize("cumulative", [False, True])
def test_a_fit_goes_on_with_what_was_observed(cumulative, tmp_path, clock):
    first = progress(tmp_path)
    method = Rows(cumulative)
    assert first.resume(method) == 0
    clock.now = 30.0
    observe(method, first, [[0, 1], [2, 3], [4]])

    again = progress(tmp_path)
    assert again.batches_kept == 2  # the third is read again
    fresh = Rows(cumulative)
    assert again.resume(fresh) == 5
    assert fresh.rows == [0, 1, 2, 3, 4]
    assert again.reads_again
    assert again.seconds_before == 30.0
    again.count_batch(fresh, 5)
    assert not again.reads_again
    observe(fresh, again, [[5, 6]])

    last = Rows(cumulative)
    assert progress(tmp_path).resume(last) == 7
    assert last.rows == [*range(7)]


def test_it_saves_as_often_as_it_is_asked_to(tmp_path, clock):
    kept = progress(tmp_path, minutes=10)
    method = Rows()
    kept.resume(method)
    observe(method, kept, [[0]])
    assert kept.last(IMAGES) == 0
    clock.now = 600.0
    observe(method, kept, [[1]])
    assert kept.last(IMAGES) == 2


def test_a_save_without_its_last_file_does_not_count(tmp_path, clock):
    kept = progress(tmp_path)
    method = Rows()
    kept.resume(method)
    observe(method, kept, [[0], [1]])
    (tmp_path / "0-of-1" / f"{IMAGES}-{2:012d}.ckpt").unlink()
    fresh = Rows()
    assert progress(tmp_path).resume(fresh) == 1
    assert fresh.rows == [0]


def test_progress_of_other_images_or_another_version_or_damaged_is_refused(
    tmp_path, clock, monkeypatch
):
    kept = progress(tmp_path)
    method = Rows()
    kept.resume(method)
    observe(method, kept, [[0]])
    with pytest.raises(UserError, match="made from other training images"):
        progress(tmp_path, identity=("images", 8)).resume(Rows())
    with monkeypatch.context() as later:
        later.setattr(fit_progress, "FORMAT", 0)
        with pytest.raises(UserError, match="written by another version"):
            progress(tmp_path).resume(Rows())
    (piece,) = (tmp_path / "0-of-1").glob(f"{IMAGES}-*-000000.ckpt")
    piece.write_bytes(piece.read_bytes()[:100])
    with pytest.raises(WeightsError, match="to read the images anew"):
        progress(tmp_path).resume(Rows())


def test_a_disk_that_takes_nothing_ends_the_saving_and_not_the_fit(tmp_path, clock):
    (tmp_path / "file").touch()
    kept = progress(tmp_path / "file")
    method = Rows()
    kept.resume(method)
    with pytest.warns(UserWarning, match="cannot be kept, and it goes on without"):
        observe(method, kept, [[0]])
    observe(method, kept, [[1]])
    assert not kept.save(method)
    assert kept.selection_saver(method, "selection") is None


def test_a_selection_is_saved_beside_what_it_is_made_from(tmp_path, clock):
    kept = progress(tmp_path)
    method = Rows()
    kept.resume(method)
    observe(method, kept, [[0]])
    saver = kept.selection_saver(method, "selection")
    assert saver.saved_state() is None
    for count in (1, 2, 3):
        saver.save(count, {"chosen": torch.arange(count)})
    saved = progress(tmp_path).selection_saver(method, "selection").saved_state()
    assert saved["chosen"].tolist() == [0, 1, 2]
    assert ProgressFiles(tmp_path).numbers("selection") == [2, 3]


def one_process_is_behind(folder):
    def work(rank):
        kept = progress(folder)
        method = Rows()
        kept.resume(method)
        for batch in range(8):
            method.rows.append(batch)
            kept.count_batch(method, batch + 1)
        if rank:
            (folder / f"{rank}-of-2" / f"{IMAGES}-{8:012d}.ckpt").unlink()
        return progress(folder).last(IMAGES), ProgressFiles(folder).numbers(IMAGES)

    return work


@pytest.mark.distributed
def test_only_what_all_processes_have_saved_counts(tmp_path, over_processes):
    """Eight batches pass between two looks at the clock."""
    assert over_processes(2, one_process_is_behind(tmp_path / "progress")) == [(0, []), (0, [])]
