"""Runs the cells of a benchmark, each in a process of its own."""

import contextlib
import fcntl
import json
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from lightning_ad.cli.settings import as_one_run
from lightning_ad.commands.benchmark.cells import Cell
from lightning_ad.errors import Preempted, UsageError
from lightning_ad.system.files import write_json
from lightning_ad.system.names import show
from lightning_ad.system.run_folder import RunFolder
from lightning_ad.system.signals import forward_signals, write_notice
from lightning_ad.system.subprocesses import start_training

LOG = "log.txt"
LOCK = ".lock"
SETTINGS = "cell.json"
POLL_SECONDS = 0.5
PRINTED_METRICS = ("image_AUROC", "pixel_AUPRO_0.30")
Environment = Mapping[str, str]


def run_cells(
    cells: Sequence[Cell], output: Path, devices: Sequence[Environment]
) -> dict[Cell, str]:
    """Runs the cells that are not finished, one on each device at a time.

    A cell continues from its last checkpoint. Its output goes into `<output>/<cell>/log.txt`.

    Args:
        cells: in the order in which they begin.
        output: the folder of the benchmark.
        devices: the environment variables of the processes on each device.

    Returns:
        Why a cell has no result, for those that have none.

    Raises:
        UsageError: if a cell was begun with other settings.
        Preempted: once all runs have stopped, if the command was stopped.
    """
    check_cells(cells, output)
    runner = _Runner(output, devices)
    labels = [f"[{number}/{len(cells)}] {cell.name}" for number, cell in enumerate(cells, 1)]
    with forward_signals(runner.stop), ThreadPoolExecutor(len(devices)) as pool:
        reasons = list(pool.map(runner.run, cells, labels))
    if runner.is_stopped:
        raise Preempted("stopped: the same command goes on with what is left")
    failed: dict[Cell, str] = {}
    for cell, reason in zip(cells, reasons, strict=True):
        if reason:
            failed[cell] = reason
    return failed


def check_cells(cells: Sequence[Cell], output: Path) -> None:
    """Raises UsageError if a cell's folder holds a run with other settings."""
    for cell in cells:
        folder = output / cell.name
        settings = folder / SETTINGS
        if not settings.is_file() or not RunFolder.versions(folder):
            continue
        difference = cell.difference(settings.read_text())
        if difference:
            raise UsageError(
                f"the cell {folder} is there with other settings: {difference}. Give the benchmark "
                "another --name, or remove the folder to run the cell anew"
            )


class _Runner:
    """Runs cells in threads, each with a process on a free device, until it is stopped."""

    def __init__(self, output: Path, devices: Sequence[Environment]) -> None:
        self.output = output
        self._signals: list[int] = []
        self._free: SimpleQueue[Environment] = SimpleQueue()
        for device in devices:
            self._free.put(device)

    @property
    def is_stopped(self) -> bool:
        return bool(self._signals)

    def stop(self, number: int) -> None:
        """Lets the cells that run stop, and no other begin."""
        if not self._signals:
            write_notice(
                "stopping: the cells that run keep what they have done (Ctrl+C again: at once)"
            )
        self._signals.append(number)

    def run(self, cell: Cell, label: str) -> str | None:
        """Runs a cell unless it is finished; returns why it has no result, None if it has one."""
        device = self._free.get()
        try:
            if self.is_stopped:
                return None
            return self._run(cell, label, device)
        finally:
            self._free.put(device)

    def _run(self, cell: Cell, label: str, device: Environment) -> str | None:
        folder = self.output / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked(folder, label) as lock:
            if lock is None:
                return None
            check_cells([cell], self.output)  # another process may have begun it meanwhile
            versions = RunFolder.versions(folder)
            if any(version.finished for version in versions):
                show(f"{label}: finished before")
                return None
            write_json(folder / SETTINGS, cell.settings)
            show(f"{label} {'goes on' if versions else 'begins'}")
            flags = [*as_one_run(cell.flags), "--output", str(self.output), "--name", cell.name]
            if versions:
                flags.append("--resume")
            with (folder / LOG).open("a") as log:
                start = log.tell()
                child = start_training(
                    flags,
                    device,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[lock],
                )
                code = self._wait(child)
        return self._report(code, folder, label, start)

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        """Returns the child's exit code; it is stopped as soon as the benchmark is."""
        was_asked = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(timeout=POLL_SECONDS)
            if self.is_stopped and not was_asked:
                child.terminate()
                was_asked = True
            if signal.SIGKILL in self._signals:
                child.kill()

    def _report(self, code: int, folder: Path, label: str, log_start: int) -> str | None:
        """Prints how a cell ended; returns why it failed, None if it did not."""
        if code == 0:
            show(f"{label}: {_metrics(folder)}")
            return None
        if code == Preempted.exit_code or self.is_stopped:
            self._signals.append(signal.SIGTERM)
            return None
        log = folder / LOG
        ended = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        reason = _last_error(log, log_start) or ended
        show(f"{label} FAILED ({ended}): {reason}  ({log})", as_error=True)
        return reason

    @contextlib.contextmanager
    def _locked(self, folder: Path, label: str) -> Iterator[int | None]:
        """Locks a cell; yields the descriptor, None if the command is stopped as it waits.

        The cell's first process and its workers inherit the lock: as long as one of them lives,
        nobody else runs the cell.

        Raises:
            UsageError: on a disk without locks.
        """
        with (folder / LOCK).open("w") as file:
            is_locked = _try_to_lock(file.fileno(), folder)
            if not is_locked:
                show(f"{label}: another process is at it; waiting")
            while not is_locked and not self.is_stopped:
                time.sleep(POLL_SECONDS)
                is_locked = _try_to_lock(file.fileno(), folder)
            yield file.fileno() if is_locked else None


def _try_to_lock(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UsageError(
            f"the disk of {folder} has no file locks ({error.strerror}): choose another --output"
        ) from error
    return True


def _metrics(folder: Path) -> str:
    metrics = json.loads(RunFolder.find(folder).metrics.read_text())["metrics"]
    shown: list[str] = []
    for name in PRINTED_METRICS:
        if metrics[name] is not None:
            shown.append(f"{name} {metrics[name]:.4f}")
    return ", ".join(shown)


def _last_error(log: Path, start: int) -> str:
    """Returns the last error in a log after its first `start` bytes; empty if there is none."""
    text = log.read_bytes()[start:].decode(errors="replace").replace("\r", "\n")
    _, found, message = text.rpartition("\nerror: ")
    if found:
        return " ".join(message.split())[:400]
    for line in reversed(text.splitlines()[-200:]):
        if line.split(" ")[0].endswith("Error:"):
            return line
    return ""
