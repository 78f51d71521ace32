"""Runs scripts in processes forked from one that has imported everything (`zygote.py`)."""

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

LEFT_BEHIND = 20  # seconds that others have to end by themselves
ROOT = Path(__file__).parents[2]


class Forked:
    """Starts one script after another; ended with the process that made it."""

    def __init__(self):
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
        self.environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self._zygote = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))], env=self.environment, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, argv, timeout, **env):
        """Runs a script; kills it, and all that it has started, where it takes more than `timeout` seconds.

        Returns:
            Whether it has ended by itself, its exit code, and what it wrote to its output and to its errors.
        """
        with tempfile.TemporaryDirectory() as folder:
            files = [str(Path(folder) / kind) for kind in ("output", "error")]
            child = self.begin(argv, *files, **env)
            ended = self.ended(timeout)
            end = time.monotonic() + LEFT_BEHIND
            while ended and time.monotonic() < end:  # other processes of a run that one has left
                try:
                    os.killpg(child, 0)
                except ProcessLookupError:
                    break
                time.sleep(0.1)
            for kill in (
                lambda: os.killpg(child, signal.SIGKILL),
                lambda: ended or os.kill(child, signal.SIGKILL),
            ):
                with contextlib.suppress(ProcessLookupError):
                    kill()
            code = self.code()
            output, error = (
                Path(f).read_text(errors="replace") if Path(f).exists() else "" for f in files
            )
        return ended, code, output, error

    def begin(self, argv, output, error, **env):
        """Starts a script that writes into two files; its process's id. The one before has ended."""
        environment = {**os.environ, **self.environment, **env}
        request = {
            "argv": argv,
            "environment": environment,
            "folder": os.getcwd(),
            "output": output,
            "error": error,
        }
        self._zygote.stdin.write(json.dumps(request).encode() + b"\n")
        return int(self._zygote.stdout.readline())

    def ended(self, timeout):
        """Whether the script ends within so many seconds (None: however many)."""
        return bool(select.select([self._zygote.stdout], [], [], timeout)[0])

    def code(self):
        """Its exit code, once it has ended."""
        return int(self._zygote.stdout.readline())


forked = cache(Forked)  # one for each worker of pytest


class ForkedTraining:
    """A run of `train.py`; stands for the `Popen` that `processes.start_training` gives."""

    def __init__(self, forked, flags, output, env):
        self._forked, self.pid = (
            forked,
            forked.begin([str(ROOT / "train.py"), *flags], output, output, **env),
        )

    def wait(self, timeout=None):
        if not self._forked.ended(timeout):
            raise subprocess.TimeoutExpired("train.py", timeout)
        return self._forked.code()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)
