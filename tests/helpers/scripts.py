"""Runs scripts in processes forked from one that has imported everything (`process_server.py`)."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from paths import ROOT

PATIENCE = 600  # seconds; a run takes a few on a quiet machine, so one that takes longer hangs
IMPORTED_FROM = ("", "tests/helpers", "tests/methods")  # folders of a checkout


class ScriptServer:
    """Runs one script after another; ends with the process that made it.

    Args:
        root: of the checkout whose modules are imported.
    """

    def __init__(self, root=ROOT):
        paths = os.pathsep.join(str(root / part) for part in IMPORTED_FROM)
        self.environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, str(root / "tests/helpers/process_server.py")],
            env={**os.environ, **self.environment},
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, argv, timeout, **env):
        """Runs a script; kills it, and all that it has started, after `timeout` seconds.

        Returns:
            Whether it and the other processes of its run ended by themselves, its exit code, its
            output and its errors.
        """
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "output"
            error = Path(folder) / "error"
            deadline = time.monotonic() + timeout
            child = self.begin(argv, str(output), str(error), **env)
            first_ended = self.ended(timeout)
            ended = first_ended and group_ended(child, deadline)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            if not first_ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            code = self.code()
            return ended, code, read_if_there(output), read_if_there(error)

    def begin(self, argv, output, error, **env):
        """Starts a script that writes into two files; returns its process id.

        The script before it must have ended.
        """
        request = {
            "argv": argv,
            "environment": {**os.environ, **self.environment, **env},
            "folder": os.getcwd(),
            "output": os.path.abspath(output),
            "error": os.path.abspath(error),
        }
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        return int(self._server.stdout.readline())

    def ended(self, timeout):
        """Waits for the script to end, at most `timeout` seconds (None: for ever)."""
        return bool(select.select([self._server.stdout], [], [], timeout)[0])

    def close(self):
        """Ends the server; no script may run."""
        self._server.stdin.close()
        self._server.wait()

    def code(self):
        """Returns the exit code of the script, which must have ended."""
        return int(self._server.stdout.readline())


def group_ended(leader, deadline):
    """Waits for the other processes of a run to end, until the deadline at most."""
    while time.monotonic() < deadline:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def read_if_there(file):
    if not file.exists():
        return ""
    return file.read_text(errors="replace")


script_server = cache(ScriptServer)  # one for each worker of pytest


class ServedTraining:
    """A run of `train.py`; replaces the `Popen` that `subprocesses.start_training` returns."""

    def __init__(self, server, flags, output, env):
        self._server = server
        self.pid = server.begin([str(ROOT / "train.py"), *flags], output, output, **env)

    def wait(self, timeout=None):
        if not self._server.ended(timeout):
            raise subprocess.TimeoutExpired("train.py", timeout)
        return self._server.code()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)
