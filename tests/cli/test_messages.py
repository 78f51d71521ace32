"""What a failing command prints, and its exit code. (More in tests/commands/test_faults.py.)"""

import errno
import threading
import warnings
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_ad.cli.messages import KEPT, explain, run
from lightning_ad.errors import DataError, DivergedError, Preempted, UsageError

FAULTS = {
    "memory": (MemoryError(), "the main memory is full: lower data.batch_size"),
    "allocator": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        "main memory is full",
    ),
    "shared memory": (RuntimeError("unable to write to /dev/shm/x"), "memory that workers share"),
    "disk": (OSError(errno.ENOSPC, "no", "a.ckpt"), "a.ckpt: there is no room left on the disk"),
    "quota": (OSError(errno.EDQUOT, "no"), "a file: the quota of the disk is used up"),
    "worker": (
        RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."),
        "a worker that reads images has died: DataLoader worker (pid 3) is killed",
    ),
    "process": (
        RuntimeError("[gloo] Connection closed by peer [127.0.0.1]"),
        "another process of this run has ended (Connection closed by peer)",
    ),
    "package": (
        ModuleNotFoundError("`DeviceStatsMonitor` needs psutil."),
        "asked to use is missing: `DeviceStatsMonitor` needs psutil",
    ),
}


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_machine_is_one_sentence(name, capsys):
    fault, sentence = FAULTS[name]
    wrapped = ValueError("while fitting")
    wrapped.__cause__ = fault
    assert run(failing(wrapped)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.endswith(f"{KEPT}\n")


def test_another_error_keeps_its_trace():
    assert explain(ValueError("a bug")) is None
    assert explain(OSError(errno.ENOENT, "no such file")) is None
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (UsageError("wrong"), 2, "error: wrong\n"),
        (DataError("broken"), 1, "error: broken\n"),
        (Preempted("later"), 75, "error: later\n"),
        (DataError("Traceback ...\nDataError: broken"), 1, "error: broken\n"),  # of a worker
        (MisconfigurationException("no such device"), 2, "error: no such device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_exit_codes(error, code, printed, capsys):
    assert run(failing(error)) == code
    assert capsys.readouterr().err == printed
    assert run(lambda: 3) == 3
    assert run(lambda: "a path") == 0


def test_what_all_processes_raise_the_first_one_says(monkeypatch, capsys):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run(failing(DivergedError("not finite"))) == 0  # or Lightning would kill the first
    assert run(failing(DataError("of this process alone"))) == 1
    assert capsys.readouterr().err == "error: of this process alone\n"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun, which asks for the code
    assert run(failing(DivergedError("not finite"))) == 1


def test_warnings_of_ours_are_notes(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    run(lambda: 0)
    own = warnings.formatwarning("few images", UserWarning, run.__code__.co_filename, 3)
    assert own == "note: few images\n"
    assert "UserWarning: few images" in warnings.formatwarning("few images", UserWarning, "x.py", 3)


def test_a_full_disk_names_the_folder_of_the_logger_and_leaves_no_trace(tmp_path, capsys):
    logger = CSVLogger(tmp_path, name="csv")
    logger.log_metrics({"loss": 1.0})
    Path(logger.experiment.metrics_file_path).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        logger.save()
    sentence = explain(full.value)
    assert sentence.startswith(f"{logger.log_dir}: there is no room left on the disk")

    def fail(error):
        raise error

    before = threading.excepthook
    try:
        run(lambda: 0)
        for error in (full.value, ValueError("another")):
            thread = threading.Thread(target=fail, args=[error])  # as TensorBoard's
            thread.start()
            thread.join()
            printed = capsys.readouterr().err
            assert bool(printed) == isinstance(error, ValueError)
    finally:
        threading.excepthook = before


def test_a_locale_that_cannot_write_a_name_is_a_sentence():
    with pytest.raises(UnicodeEncodeError) as raised:
        "maps/Größe".encode("ascii")
    sentence = explain(raised.value)
    assert r"knows ascii alone, and cannot write 'maps/Gr\xf6\xdfe'" in sentence
    assert "PYTHONUTF8" in sentence
