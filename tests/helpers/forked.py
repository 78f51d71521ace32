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
            files = {kind: str(Path(folder) / kind) for kind in ("output", "error")}
            environment = {**os.environ, **self.environment, **env}
            request = {"argv": argv, "environment": environment, "folder": os.getcwd(), **files}
            self._zygote.stdin.write(json.dumps(request).encode() + b"\n")
            child = int(self._zygote.stdout.readline())
            ended = bool(select.select([self._zygote.stdout], [], [], timeout)[0])
            end = time.monotonic() + LEFT_BEHIND
            while ended and time.monotonic() < end:  # other processes of a run that one has left
                try:
                    os.killpg(child, 0)
                except ProcessLookupError:
                    break
                time.sleep(0.1)
            for kill in (lambda: os.killpg(child, signal.SIGKILL), lambda: ended or os.kill(child, signal.SIGKILL)):
                with contextlib.suppress(ProcessLookupError):
                    kill()
            code = int(self._zygote.stdout.readline())
            output, error = (Path(f).read_text(errors="replace") if Path(f).exists() else "" for f in files.values())
        return ended, code, output, error
