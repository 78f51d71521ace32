"""Standard streams that are closed, or that nobody reads any more: a run goes on without them."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe, or the terminal
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk of a log


def open_missing_streams() -> None:
    """Opens standard streams that the process was started without.

    The next files would get their numbers, and what is printed would be written into these.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


class UnbrokenStream:
    """Prints into a stream as long as that can take it.

    Args:
        stream: of text, with a file descriptor.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text, or nothing once the stream takes no more."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream, if it still takes something."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if error.errno in GONE:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        elif error.errno not in FULL:
            raise error


@contextmanager
def unbroken_streams() -> Iterator[None]:
    """Keeps what is inside from ending because nobody reads what it prints."""
    output = UnbrokenStream(sys.stdout)
    errors = UnbrokenStream(sys.stderr)
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            yield
        finally:
            output.flush()
            errors.flush()
