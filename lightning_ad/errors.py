"""Errors that a user can cause: one clear message, without a trace."""


class UserError(Exception):
    """Something the user can put right. The message says what was expected, what came, and what to do.

    The command line prints it alone and ends with `exit_code`.
    """

    exit_code = 1
    everywhere = False  # whether all processes raise it, so that the first one's word is enough


class UsageError(UserError):
    """The wish itself cannot be met: a wrong argument, or two that exclude each other."""

    exit_code = 2


class DataError(UserError):
    """A data set is not as its layout says: a missing folder, an unreadable file, a mask that does not fit."""


class WeightsError(UserError):
    """Weights or a checkpoint cannot be had, or do not fit the network."""


class MissingFolderError(DataError):
    """A folder that the layout wants is not there."""


class NotFittedError(UserError):
    """A method was asked for a score before it has learned anything."""


class DivergedError(UserError):
    """Training has left finite numbers; all processes say the same."""

    everywhere = True


class Preempted(UserError):
    """The run was told to stop, and can go on; all processes say the same. The exit code is EX_TEMPFAIL."""

    exit_code = 75
    everywhere = True


class Interrupted(UserError):
    """The user has ended the run at once."""

    exit_code = 130
    everywhere = True
