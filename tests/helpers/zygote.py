"""A process that has imported everything, and forks one for each command: imports take most of a small run.

Reads a request as a line of JSON (argv, environment, folder; output and error: files); answers with the new process's
id, then with its exit code.
"""

import json
import os
import runpy
import signal
import sys
import traceback

import lightning_ad.main  # noqa: F401


def become(request):
    """Runs a script in this process; never returns."""
    os.setsid()
    for file, descriptor in ((request["output"], 1), (request["error"], 2), (os.devnull, 0)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
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
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main():
    for line in sys.stdin:
        if not (child := os.fork()):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            become(json.loads(line))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
