"""How the commands begin: imports take seconds, in which Ctrl+C is no error of ours."""

import signal
import sys


def start(command: str) -> int:
    """Runs a command of `lightning_ad.main`; its exit code.

    Args:
        command: the name of its function.
    """
    try:
        from lightning_ad import main

        code = getattr(main, command)()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said, and the exit code is not to be another
    return code


def main() -> int:
    """`lightning-ad`."""
    return start("main")
