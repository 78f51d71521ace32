"""`lightning-ad` and `python -m lightning_ad`: how every command begins and ends."""

import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from lightning_ad.commands.main import main as run_command
from lightning_ad.errors import Preempted, Stopped
from lightning_ad.system.signals import StopAtOnce
from lightning_ad.system.streams import open_missing_streams, unbroken_streams


def start(words: Sequence[str]) -> int:
    """Runs a command and returns its exit code.

    Ctrl+C is reported as "interrupted" at any time, even during the imports, which take seconds. A
    training ends with 75 at any time after a signal that asks it to stop, and does not end because
    nobody reads what it prints.

    Args:
        words: the name of the command and its flags.
    """
    open_missing_streams()
    with ExitStack() as around:
        if "train" in words[:1]:
            around.enter_context(StopAtOnce())
            around.enter_context(unbroken_streams())
        code = _run(words)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the exit code must not change any more
    return code


def _run(words: Sequence[str]) -> int:
    try:
        return run_command(words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Stopped as stop:
        print(f"error: {stop.signal}: stopped before the run began", file=sys.stderr)
        return Preempted.exit_code


def main() -> int:
    """Runs the command that the command line names."""
    return start(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
