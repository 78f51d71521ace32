"""`lightning-ad` and `python -m lightning_ad`: how every command begins and ends."""

import signal
import sys
from collections.abc import Sequence

from lightning_ad.commands.main import main as run_command


def start(words: Sequence[str]) -> int:
    """Runs a command and returns its exit code.

    Ctrl+C is reported as "interrupted" at any time, even during the imports, which take seconds.

    Args:
        words: the name of the command and its flags.
    """
    try:
        code = run_command(words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the exit code must not change any more
    return code


def main() -> int:
    """Runs the command that the command line names."""
    return start(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
