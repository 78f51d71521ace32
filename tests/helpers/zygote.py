"""A process that has imported everything, and forks one for each command: imports take most of a small run.

Reads a request as a line of JSON (argv, environment, folder; output and error: files); answers with the new process's
id, then with its exit code.
"""

import contextlib
import json
import os
import runpy
import signal
import sys
import traceback
from importlib import import_module
from types import SimpleNamespace

from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities import rank_zero_only

from lightning_ad.commands.main import COMMANDS

for command in COMMANDS.values():
    import_module(command.module)


class Spare:
    """The process of another rank, forked before the run begins; stands for the `Popen` that Lightning makes."""

    def __init__(self, request):
        read, self._write = os.pipe()
        self.returncode = None
        if not (pid := os.fork()):
            os.close(self._write)
            with os.fdopen(read) as file:
                if not (said := file.readline()):
                    os._exit(0)  # the run has ended without it
            environment = json.loads(said)
            rank_zero_only.rank = int(environment["LOCAL_RANK"])
            execute({**request, "environment": environment})
        os.close(read)
        self.pid = pid

    def start(self, command, env, **_):
        with os.fdopen(self._write, "w") as file:
            print(json.dumps(dict(env)), file=file)
        return self

    def poll(self):
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def become(request):
    """Runs a script in this process; never returns."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file, descriptor in ((request["output"], 1), (request["error"], 2), (os.devnull, 0)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    argv = request["argv"]
    if "--trainer.devices" in argv:
        spares = [Spare(request) for _ in range(int(argv[argv.index("--trainer.devices") + 1]) - 1)]
        subprocess_script.subprocess = SimpleNamespace(
            Popen=lambda *a, **more: spares.pop(0).start(*a, **more)
        )
    execute(request)


def execute(request):
    sys.stdout, sys.stderr, sys.stdin = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1), os.fdopen(0)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    code = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(ValueError, OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def main():
    for line in sys.stdin:
        if not (child := os.fork()):
            become(json.loads(line))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
