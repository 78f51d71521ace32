"""Imports everything once, then forks a process for each script: imports take most of a small run.

Reads each request as a line of JSON: argv, environment, folder, and the files for output and
errors. Answers with the id of the new process, then with its exit code.
"""

import contextlib
import ctypes
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
from PIL import Image
from quick import make_small_runs_quick

from lightning_ad.commands.main import COMMANDS

PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl
IMPORTED_AT_THEIR_USE = (
    "kornia",
    "lightning_ad.data.layouts.mvtec",
    "segmentation_models_pytorch",
    "tensorboard.plugins.hparams.api_pb2",
)

for command in COMMANDS.values():
    import_module(command.module)
for name in IMPORTED_AT_THEIR_USE:
    import_module(name)
Image.init()
make_small_runs_quick()


class RankProcess:
    """The process of another rank, forked before the run begins.

    Replaces the `Popen` that Lightning makes: `start` hands it the environment of its rank.
    """

    def __init__(self, request):
        read, self._write = os.pipe()
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._write)
            execute_as_rank(read, request)
        os.close(read)

    def start(self, command, env, **_):
        with os.fdopen(self._write, "w") as file:
            print(json.dumps(dict(env)), file=file)
        return self

    def poll(self):
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def execute_as_rank(read, request):
    """Waits for the environment of the rank, then runs the script; never returns."""
    with os.fdopen(read) as file:
        line = file.readline()
    if not line:
        os._exit(0)  # the run has ended without this process
    environment = json.loads(line)
    rank_zero_only.rank = int(environment["LOCAL_RANK"])
    execute({**request, "environment": environment})


def execute_request(request):
    """Runs a script in this process, and in those of its other ranks; never returns."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file, descriptor in ((request["output"], 1), (request["error"], 2), (os.devnull, 0)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    argv = request["argv"]
    if "--trainer.devices" in argv:
        devices = int(argv[argv.index("--trainer.devices") + 1])
        others = [RankProcess(request) for _ in range(devices - 1)]

        def start_next(*args, **options):
            return others.pop(0).start(*args, **options)

        subprocess_script.subprocess = SimpleNamespace(Popen=start_next)
    execute(request)


def execute(request):
    """Runs a script in this process; never returns."""
    sys.stdout = os.fdopen(1, "w", 1)
    sys.stderr = os.fdopen(2, "w", 1)
    sys.stdin = os.fdopen(0)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    code = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = exit_code(end)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(ValueError, OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def exit_code(end):
    """Returns the exit code of a SystemExit; prints its message, as Python does."""
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
    if isinstance(end.code, int):
        return end.code
    return int(bool(end.code))


def main():
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            execute_request(json.loads(line))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        with contextlib.suppress(ChildProcessError):  # once no process of the run is left
            while True:
                os.waitpid(-child, 0)


def adopt_orphans():
    """Makes orphans of the runs children of this process, which waits for them.

    Process 1 of a container may not do so: they would seem to live for ever.
    """
    with contextlib.suppress(AttributeError, OSError):  # not on Linux
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


if __name__ == "__main__":
    adopt_orphans()
    main()
