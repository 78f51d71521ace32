"""Errors that a user can cause: one clear message, without a trace."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can put right: what was expected, what was got, and what to do.

    The command line prints the message alone and ends with `exit_code`.

    Attributes:
        exit_code: of the command.
        everywhere: whether all processes raise it, so that only the first one prints it.
    """

    exit_code = 1
    everywhere = False


class UsageError(UserError):
    """A request that is not possible: a wrong argument, or two that exclude each other."""

    exit_code = 2


class DataError(UserError):
    """A data set does not match its layout: a missing folder, an unreadable file, a wrong mask."""


class WeightsError(UserError):
    """Weights or a checkpoint cannot be loaded, or do not fit the network."""


class UnreadableError(WeightsError):
    """The system does not give a file of weights, which may well be whole: no permission, say."""


class MissingFolderError(DataError):
    """A folder that the layout needs is missing."""


class NotFittedError(UserError):
    """A method was asked for a score before it was fitted."""


class DivergedError(UserError):
    """A loss or a weight is not finite; all processes raise it."""

    everywhere = True


class NotFiniteError(UserError):
    """Features or a score of an image are NaN or infinite.

    Args:
        what: is not finite, in words.
        row: of the first such image in its batch.
        path: of that image; None if it is not known.
    """

    def __init__(self, what: str, row: int, path: str | None = None) -> None:
        image = f"image {row + 1} of a batch" if path is None else path
        super().__init__(
            f"the {what} of {image} is not a finite number: a metric of it would mean nothing. "
            "Look for weights that are damaged or of a training that diverged, and for a "
            "precision in which they overflow (trainer.precision 32-true does not)"
        )
        self.what = what
        self.row = row


class Preempted(UserError):
    """A signal has stopped the run, which can be resumed; all processes raise it.

    The exit code is EX_TEMPFAIL, so that a scheduler starts the job again.
    """

    exit_code = 75
    everywhere = True


class Stopped(BaseException):
    """A signal has asked this process to end, at a moment when nothing more can be kept.

    Like KeyboardInterrupt it is no `Exception`: it must not be caught on its way.

    Attributes:
        signal: its name.
    """

    def __init__(self, signal: str) -> None:
        super().__init__(signal)
        self.signal = signal


class Interrupted(UserError):
    """The user ended the run at once."""

    exit_code = 130
    everywhere = True


class CapacityError(ValueError):
    """More rows are wanted than can be held. A method turns it into a `UserError`.

    Attributes:
        wanted: number of rows that are wanted.
        capacity: number of rows that can be held.
    """

    def __init__(self, wanted: int, capacity: int) -> None:
        super().__init__(f"{wanted} rows are wanted, at most {capacity} can be held")
        self.wanted = wanted
        self.capacity = capacity


class DiskFullError(OSError):
    """A temporary file does not fit on its disk. A method turns it into a `UserError`.

    Attributes:
        size: of the file, in bytes.
        folder: the one for temporary files.
        reason: why it could not be, in the system's words.
    """

    def __init__(self, size: int, folder: str, reason: str) -> None:
        super().__init__(f"{folder} has no room for {size} bytes: {reason}")
        self.size = size
        self.folder = folder
        self.reason = reason


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message that suggests the nearest known name; empty if none is near."""
    near = get_close_matches(name, list(known), n=1)
    if not near:
        return ""
    return f", did you mean '{near[0]}'"


def in_one_line(error: BaseException) -> str:
    """Returns an error's kind and text without line breaks, the first 300 characters of them."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
