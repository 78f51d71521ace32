"""Signals that ask a run to stop: how they are handled, and forwarded to child processes."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning_ad.errors import Stopped
from lightning_ad.system.names import printable

STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT]
for name in ("SIGUSR1", "SIGHUP"):  # not on Windows
    if hasattr(signal, name):
        STOP_SIGNALS.append(signal.Signals[name])

# The environment variable that holds the number of the process that a run must not outlive.
PARENT = "LIGHTNING_AD_PARENT"


def handle_signals(
    handler: Callable[[int, FrameType | None], object],
    numbers: Sequence[signal.Signals] = STOP_SIGNALS,
) -> dict[signal.Signals, Any]:
    """Sets a handler for stop signals, except those that this process was started to ignore.

    Args:
        handler: of the signals.
        numbers: the signals.

    Returns:
        The handlers before, for `restore_handlers`.
    """
    before = {}
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    return before


def restore_handlers(before: Mapping[signal.Signals, Any]) -> None:
    """Sets the handlers that `handle_signals` has replaced."""
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)  # None: it was set in C


class StopAtOnce:
    """Ends a command at a stop signal by `Stopped`, at whatever it is doing inside `with`.

    Where more can be kept, other handlers take its place for a while (`callbacks.preemption`).
    Ctrl+C is left to Python. After the command the signals do nothing: its exit code stands.
    """

    heard: list[signal.Signals] = []

    def __enter__(self) -> None:
        self.heard.clear()
        self._process = os.getpid()
        self._over = False
        numbers = [number for number in STOP_SIGNALS if number != signal.SIGINT]
        handle_signals(self._stop, numbers)

    def __exit__(self, *_: object) -> None:
        self._over = True
        self.heard.clear()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._over or os.getpid() != self._process:
            return
        self.heard.append(signal.Signals(number))
        if _is_first_of_its_run():
            raise Stopped(signal.Signals(number).name)


def _is_first_of_its_run() -> bool:
    """Whether this process may end alone; the others of a run wait until all can."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


@contextmanager
def forward_signals(forward: Callable[[int], object]) -> Iterator[None]:
    """Calls `forward` with the stop signals that this process receives, while others do the work.

    Ctrl+C at a terminal reaches the others too, and the second ends them at once. Therefore
    `forward` is called with SIGTERM for it, and with SIGKILL for the third.
    """
    interrupts = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        if number == signal.SIGINT:
            interrupts += 1
            number = signal.SIGKILL if interrupts > 2 else signal.SIGTERM
        forward(number)

    before = handle_signals(handle)
    try:
        yield
    finally:
        restore_handlers(before)


def write_notice(text: str) -> None:
    """Writes to the standard error from a signal handler, where an interrupted print may block.

    Ctrl+C also ends the program that reads our output (`| tee log`): from then on nothing is
    written, so that the run can end properly.
    """
    try:
        os.write(2, f"\n{printable(text)}\n".encode())
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)


def stop_with_parent() -> None:
    """Sends this process SIGTERM once the process that `PARENT` names has gone."""
    number = os.environ.pop(PARENT, "0")
    parent = int(number) if number.isdecimal() else 0

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent:
        threading.Thread(target=watch, daemon=True).start()
