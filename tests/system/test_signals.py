"""Stop signals: handled, forwarded to child processes, and sent if the parent is gone."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from paths import ROOT
from scripts import PATIENCE

from lightning_ad.system.signals import (
    forward_signals,
    handle_signals,
    restore_handlers,
    write_notice,
)

CHILD = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
signal.pause()
"""


def test_handlers_are_restored(interruptible):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    received = []
    replaced = handle_signals(lambda number, frame: received.append(number))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        restore_handlers(replaced)
    assert received == [signal.SIGUSR1, signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        replaced = handle_signals(lambda *_: pytest.fail("it was handled"))
        os.kill(os.getpid(), signal.SIGUSR1)
        restore_handlers(replaced)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_forwarded_to_a_child(number, interruptible):
    before = signal.getsignal(number)
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)

    def send_when_ready():
        assert child.stdout.readline() == "ready\n"
        os.kill(os.getpid(), number)

    with forward_signals(child.send_signal):
        sender = threading.Thread(target=send_when_ready)
        sender.start()
        assert child.wait(PATIENCE) == 75
    sender.join()
    child.stdout.close()
    assert signal.getsignal(number) is before


def test_the_third_interrupt_kills(interruptible):
    forwarded = []
    with forward_signals(forwarded.append):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
    assert forwarded == [signal.SIGTERM, signal.SIGTERM, signal.SIGKILL]


def test_what_reads_the_output_may_end_by_the_same_interrupt():
    read, write = os.pipe()
    before = [os.dup(descriptor) for descriptor in (1, 2)]
    os.dup2(write, 2)
    os.close(read)
    try:
        with pytest.raises(BrokenPipeError):
            os.write(2, b"x")
        write_notice("stopping")
        assert os.write(2, b"x") == os.write(1, b"x") == 1
    finally:
        for descriptor, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)
        os.close(write)


def test_a_run_without_its_parent_stops():
    code = (
        "import time; from lightning_ad.system.signals import stop_with_parent; "
        "stop_with_parent(); time.sleep(600)"
    )
    environment = {**os.environ, "LIGHTNING_AD_PARENT": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, timeout=PATIENCE)
    assert ran.returncode == -signal.SIGTERM
