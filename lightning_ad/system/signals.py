"""Signals that ask a run to stop: who hears them, how they are handed on to child processes."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = [signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


PARENT = "LIGHTNING_AD_PARENT"  # the process without which a run is not to go on


@contextmanager
def handing_on(hear: Callable[[int], object]) -> Iterator[None]:
    """Calls `hear` with the signals that tell to stop, while others do the work.

    Ctrl+C at a terminal comes to the others as well, and the second ends them at once. So `hear` is told SIGTERM for
    it, and SIGKILL for the third.
    """
    interrupts = 0

    def told(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        if number == signal.SIGINT:
            interrupts += 1
            number = signal.SIGKILL if interrupts > 2 else signal.SIGTERM
        hear(number)

    before = _handle(told)
    try:
        yield
    finally:
        _restore(before)


def say(text: str) -> None:
    """Tells the user something within a signal's handler, where a print that it has come upon may not go on.

    Ctrl+C ends what reads our output, too (`| tee log`): from then on nothing is written, so that the run can end well.
    """
    try:
        os.write(2, f"\n{text}\n".encode())
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)


def _handle(handler: Callable[[int, FrameType | None], object]) -> dict[signal.Signals, Any]:
    """Handles the signals that tell to stop, but for those that this process was begun to ignore; what did before."""
    return {
        n: signal.signal(n, handler) for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN
    }


def _restore(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)  # None: it was set in C


def stop_with_parent() -> None:
    """Where a benchmark or a series has started this process: it is told to stop once that is gone."""
    parent = int(os.environ.pop(PARENT, 0))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent:
        threading.Thread(target=watch, daemon=True).start()
