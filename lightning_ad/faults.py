"""What a machine can do to a run, in one sentence: memory and disks that are full, workers and processes that die."""

import errno
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

UNWRITABLE = {
    errno.ENOSPC: "there is no room left on the disk",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "the permission is lacking",
    errno.EPERM: "the permission is lacking",
    errno.EFBIG: "files may not be that large there",
}
LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
WORKERS = "Lower data.num_workers, or data.batch_size"
KEPT = "What was saved before is whole: --resume goes on from it"


def explain(error: BaseException) -> str | None:
    """The sentence for an error that the machine has caused; None for another."""
    for cause in _causes(error):
        text = str(cause)
        if isinstance(cause, torch.OutOfMemoryError):
            return f"the GPU's memory is full: lower data.batch_size or data.image_size ({text[:80]}). {KEPT}"
        if isinstance(cause, MemoryError) or "can't allocate memory" in text:
            return (
                "the main memory is full: lower data.batch_size, data.num_workers or data.image_size (PatchCore and "
                f"SPADE: set model.memory_gb). {KEPT}"
            )
        if "/dev/shm" in text or "shared memory" in text:
            return f"the memory that workers share is full ({text[:120]}): {WORKERS}. {KEPT}"
        if isinstance(cause, OSError | EOFError) and _within(cause, "resource_sharer"):  # its batch was on the way
            died = f"a worker that reads images has died ({type(cause).__name__})"
            return f"{died}. Is the main memory full? {WORKERS}. {KEPT}"
        if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
            return f"{cause.filename or 'a file'}: {UNWRITABLE[cause.errno]} ({text[:160]}). {KEPT}"
        if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
            return (
                f"a worker that reads images has died: {text.rstrip('. ')}. Is the main memory full? {WORKERS}. {KEPT}"
            )
        if isinstance(cause, RuntimeError) and any(word in text for word in LOST):
            said = next(word for word in LOST if word in text)
            return f"another process of this run has ended ({said}); its own error says why, where it had one. {KEPT}"
    return None


def _within(error: BaseException, module: str) -> bool:
    """Whether an error comes out of a module of that name."""
    return any(Path(frame.filename).stem == module for frame in traceback.extract_tb(error.__traceback__))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
