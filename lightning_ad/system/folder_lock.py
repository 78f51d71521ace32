"""A lock on a folder: one process at a time works in it."""

import errno
import os
import socket
import time
from pathlib import Path
from typing import Self

from lightning_ad.errors import UsageError
from lightning_ad.system.lazy_module import LazyModule

fcntl = LazyModule("fcntl")  # Windows has none
NAME = ".lock"
HELD = (errno.EACCES, errno.EAGAIN)


class FolderIsLockedError(UsageError):
    """Another process works in a folder."""


class FolderLock:
    """The lock of this process on a folder.

    It ends with the process, however that ends: the system keeps it, not the file `.lock`, which
    only says who holds it. Processes that are forked do not inherit it. It holds over network disks
    that have locks; where there are none, nothing is locked.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path) -> Self | None:
        """Locks a folder.

        Returns:
            The lock; None on a system or a disk without locks.

        Raises:
            FolderIsLockedError: if another process holds it; says which one.
        """
        if os.name != "posix":
            return None
        path = folder / NAME
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            if not _locked(descriptor, folder):
                return None
            if _is_file(descriptor, path):
                break
            os.close(descriptor)  # its holder has just removed it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _own_name().encode(), 0)
        return cls(path, descriptor)

    def release(self) -> None:
        """Gives the folder back; does nothing the second time."""
        if self._descriptor < 0:
            return
        if _is_file(self._descriptor, self._path):
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def _locked(descriptor: int, folder: Path) -> bool:
    """Locks an open file, or closes it.

    Returns:
        False on a disk without locks.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace")
        os.close(descriptor)
        if error.errno not in HELD:
            return False
        raise FolderIsLockedError(
            f"{folder} is being worked on by {holder or 'another process'}: wait until that has "
            "ended, or end it; without --resume, a run gets a folder of its own"
        ) from error
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    """Returns whether an open file is the one that is now at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _own_name() -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} (since {now})"
