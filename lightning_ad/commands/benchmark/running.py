"""Runs the cells of a benchmark, each in a process of its own."""

import contextlib
import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from lightning_ad.commands.benchmark.cells import Cell
from lightning_ad.errors import Preempted, UsageError
from lightning_ad.system.files import write_json
from lightning_ad.system.run_folder import RunFolder
from lightning_ad.system.signals import handing_on, say
from lightning_ad.system.subprocesses import start_training

LOG, LOCK, SETTINGS = "log.txt", ".lock", "cell.json"


def run_cells(
    cells: Sequence[Cell], output: Path, devices: Sequence[dict[str, str]]
) -> dict[Cell, str]:
    """Runs those that are not finished, on as many devices at a time as there are.

    A cell goes on from its last checkpoint. Its output goes into `<output>/<cell>/log.txt`.

    Args:
        cells: in the order in which they begin.
        output: the folder of the benchmark.
        devices: the environment of each device's processes.

    Returns:
        Why a cell has no result, for those that have none.

    Raises:
        UsageError: where a cell was begun with other settings.
        Preempted: once all have stopped, where they were told to.
    """
    check_cells(cells, output)
    free: SimpleQueue[dict[str, str]] = SimpleQueue()
    for device in devices:
        free.put(device)
    failed: dict[Cell, str] = {}
    told: list[int] = []  # signals

    def one(place: tuple[int, Cell]) -> None:
        number, cell = place
        device = free.get()
        try:
            why = (
                None
                if told
                else _run(cell, output / cell.name, f"[{number}/{len(cells)}]", device, told)
            )
        finally:
            free.put(device)
        if why:
            failed[cell] = why

    def hear(number: int) -> None:
        if not told:
            say("stopping: the cells that run keep what they have done (Ctrl+C again: at once)")
        told.append(number)

    with handing_on(hear), ThreadPoolExecutor(len(devices)) as pool:
        for _ in pool.map(one, enumerate(cells, 1)):
            pass
    if told:
        raise Preempted("told to stop: the same command goes on with what is left")
    return {cell: failed[cell] for cell in cells if cell in failed}


def check_cells(cells: Sequence[Cell], output: Path) -> None:
    """Raises UsageError where a cell's folder holds a run with other settings."""
    for cell in cells:
        folder = output / cell.name
        begun = (folder / SETTINGS).is_file() and RunFolder.versions(folder)
        if begun and (changed := cell.difference((folder / SETTINGS).read_text())):
            raise UsageError(
                f"the cell {folder} is there with other settings: {changed}. Give the benchmark another --name, or "
                "remove the folder to run the cell anew"
            )


def _run(
    cell: Cell, folder: Path, label: str, device: dict[str, str], told: list[int]
) -> str | None:
    """Runs a cell unless it is finished; why there is no result, or None. No other benchmark runs it meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, f"{label} {cell.name}", told) as lock:
        if lock is None:
            return None
        check_cells([cell], folder.parent)
        versions = RunFolder.versions(folder)
        if any(version.finished for version in versions):
            print(f"{label} {cell.name}: finished before", flush=True)
            return None
        write_json(folder / SETTINGS, cell.settings)
        print(f"{label} {cell.name} {'goes on' if versions else 'begins'}", flush=True)
        flags = [
            *cell.flags,
            "--output",
            str(folder.parent),
            "--name",
            cell.name,
            *(["--resume"] if versions else []),
        ]
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
            code = _wait(child, told)
    if code == 0:
        found = json.loads(RunFolder.find(folder).metrics.read_text())["metrics"]
        shown = [
            f"{name} {found[name]:.4f}"
            for name in ("image_AUROC", "pixel_AUPRO_0.30")
            if found[name] is not None
        ]
        print(f"{label} {cell.name}: {', '.join(shown)}", flush=True)
        return None
    if code == Preempted.exit_code or told:
        told.append(signal.SIGTERM)
        return None
    ended = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
    why = _last_words(folder / LOG, start) or ended
    print(
        f"{label} {cell.name} FAILED ({ended}): {why}  ({folder / LOG})",
        file=sys.stderr,
        flush=True,
    )
    return why


def _wait(child: subprocess.Popen[bytes], told: Sequence[int]) -> int:
    """The child's exit code; it is told to stop as soon as the benchmark is."""
    handed = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=0.5)
        if told and not handed:
            child.terminate()
            handed = True
        if signal.SIGKILL in told:
            child.kill()


@contextlib.contextmanager
def _locked(folder: Path, label: str, told: Sequence[int]) -> Iterator[int | None]:
    """The lock of a cell, which its first process and its workers inherit: while one of them lives, nobody else runs
    the cell. None where it was told to stop while it waited.

    Raises:
        UsageError: on a disk without locks.
    """
    with (folder / LOCK).open("w") as file:
        waited = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    print(f"{label}: another process is at it; waiting", flush=True)
                waited = True
                time.sleep(0.5)
                if told:
                    yield None
                    return
            except OSError as error:
                raise UsageError(
                    f"the disk of {folder} knows no locks ({error.strerror}): choose another --output"
                ) from error
        yield file.fileno()


def _last_words(log: Path, start: int) -> str:
    """The last error that a run's log tells of, from a place on."""
    text = log.read_bytes()[start:].decode(errors="replace").replace("\r", "\n")
    _, found, said = text.rpartition("\nerror: ")
    if found:
        return " ".join(said.split())[:400]
    lines = [line for line in text.splitlines()[-200:] if line.split(" ")[0].endswith("Error:")]
    return lines[-1] if lines else ""
