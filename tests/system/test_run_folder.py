"""Which version of a run is made, resumed and found."""

import contextlib
import os
import signal
import time

import pytest
from scripts import PATIENCE

from lightning_ad.errors import UsageError
from lightning_ad.system.run_folder import RunFolder, finished_checkpoint


def version(output, number, *files):
    folder = output / "mine" / f"version_{number}"
    folder.mkdir(parents=True)
    for name in ("config.yaml", *files):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return RunFolder(folder)


def test_versions_are_counted_on_from_the_highest_number(tmp_path):
    assert RunFolder.create(tmp_path, "mine").path.name == "version_0"
    version(tmp_path, 9)
    (tmp_path / "mine/version_x").mkdir()
    assert RunFolder.create(tmp_path, "mine").path.name == "version_10"
    found = [run.path.name for run in RunFolder.versions(tmp_path / "mine")]
    assert found == ["version_0", "version_9", "version_10"]
    assert RunFolder.versions(tmp_path / "other") == []


def test_an_empty_run_is_discarded_with_its_name(tmp_path):
    RunFolder.create(tmp_path, "mine").discard()
    assert list(tmp_path.iterdir()) == []
    version(tmp_path, 0)
    RunFolder.create(tmp_path, "mine").discard()
    assert [run.path.name for run in RunFolder.versions(tmp_path / "mine")] == ["version_0"]


def test_the_newest_version_that_has_something_is_resumed(tmp_path):
    with pytest.raises(UsageError, match=r"no unfinished run in .*: it holds no run"):
        RunFolder.unfinished(tmp_path, "mine")
    version(tmp_path, 0, "checkpoints/last.ckpt")
    version(tmp_path, 1, "checkpoints/last.ckpt")
    version(tmp_path, 2)
    assert RunFolder.unfinished(tmp_path, "mine").path.name == "version_1"
    (tmp_path / "mine/version_1/metrics.json").touch()
    assert RunFolder.unfinished(tmp_path, "mine").path.name == "version_0"
    (tmp_path / "mine/version_0/metrics.json").touch()
    assert RunFolder.unfinished(tmp_path, "mine").path.name == "version_2"
    (tmp_path / "mine/version_2/checkpoints/progress").mkdir(parents=True)
    assert RunFolder.unfinished(tmp_path, "mine").path.name == "version_2"
    (tmp_path / "mine/version_2/metrics.json").touch()
    with pytest.raises(UsageError, match="all 3 are finished"):
        RunFolder.unfinished(tmp_path, "mine")


def test_the_newest_finished_version_is_found(tmp_path):
    with pytest.raises(UsageError, match="there is no run in"):
        RunFolder.find(tmp_path / "mine")
    unfinished = version(tmp_path, 2)
    with pytest.raises(UsageError, match="holds only unfinished runs"):
        RunFolder.find(tmp_path / "mine")
    with pytest.raises(UsageError, match="is unfinished"):
        RunFolder.find(unfinished.path)
    version(tmp_path, 0, "metrics.json")
    newest = version(tmp_path, 1, "metrics.json", "checkpoints/last.ckpt")
    assert RunFolder.find(tmp_path / "mine").path == newest.path
    assert finished_checkpoint(tmp_path / "mine") == newest.last_checkpoint
    newest.best_checkpoint.touch()
    assert finished_checkpoint(newest.path) == newest.best_checkpoint
    assert finished_checkpoint(tmp_path / "a.ckpt") == tmp_path / "a.ckpt"


@pytest.mark.parametrize("name", ["../out", "/out", "mine/../../out"])
def test_a_name_does_not_lead_out_of_the_output(name, tmp_path):
    with pytest.raises(UsageError, match="its name is a folder in"):
        RunFolder.create(tmp_path / "runs", name)
    assert not list(tmp_path.iterdir())


def in_another_process(work):
    """Runs `work` in a forked process; returns its process id, once it has written to the pipe."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            work()
            os.write(write, b"x")
            time.sleep(PATIENCE)
        os._exit(1)
    os.close(write)
    os.read(read, 1)
    return child


def end(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    folder = version(tmp_path, 0, "checkpoints/last.ckpt")
    other = in_another_process(lambda: RunFolder.resume(tmp_path, "mine"))
    with pytest.raises(UsageError, match=f"is being worked on by process {other} on .*since"):
        RunFolder.resume(tmp_path, "mine")
    end(other)  # and a dead process keeps no lock
    left = folder.checkpoints / ".last.ckpt.1.part"
    left.touch()
    resumed = RunFolder.resume(tmp_path, "mine")
    assert not left.exists()
    worker = in_another_process(lambda: None)  # which does not inherit it
    resumed.unlock()
    again = in_another_process(lambda: RunFolder.resume(tmp_path, "mine"))
    with pytest.raises(UsageError, match=f"process {again} on"):
        RunFolder.resume(tmp_path, "mine")
    end(again)
    end(worker)
    RunFolder.resume(tmp_path, "mine").unlock()
    assert not (folder.path / ".lock").exists()


def test_a_run_that_another_process_has_just_finished_is_not_resumed(tmp_path, monkeypatch):
    folder = version(tmp_path, 0, "checkpoints/last.ckpt")
    unfinished = RunFolder.unfinished.__func__

    def then_finished(cls, output, name):
        found = unfinished(cls, output, name)
        folder.metrics.touch()
        return found

    monkeypatch.setattr(RunFolder, "unfinished", classmethod(then_finished))
    with pytest.raises(UsageError, match="all 1 are finished"):
        RunFolder.resume(tmp_path, "mine")


def test_two_runs_of_one_name_that_begin_at_once_get_a_version_each(tmp_path, monkeypatch):
    version(tmp_path, 0)
    taken = version(tmp_path, 1)  # made by another process, and resumed by a third
    third = in_another_process(taken.lock)
    monkeypatch.setattr(RunFolder, "versions", lambda folder: [])  # neither sees the others'
    made = [taken, RunFolder.create(tmp_path, "mine")]
    assert made[1].path.name == "version_2"
    monkeypatch.setattr(RunFolder, "create", lambda output, name: made.pop(0))
    assert RunFolder.begin(tmp_path, "mine").path.name == "version_2"
    end(third)


def test_a_folder_that_pytorch_cannot_write_to_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not UTF-8"):
        RunFolder.create(tmp_path / "runs\udcff", "mine")
    assert not list(tmp_path.iterdir())
