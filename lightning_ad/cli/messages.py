"""What a machine can do to a run, in one sentence: memory and disks that are full, workers and processes that die."""

import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_ad.errors import UsageError, UserError
from lightning_ad.system.signals import stop_with_parent

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
        if isinstance(cause, OSError | EOFError) and _within(
            cause, "resource_sharer"
        ):  # its batch was on the way
            died = f"a worker that reads images has died ({type(cause).__name__})"
            return f"{died}. Is the main memory full? {WORKERS}. {KEPT}"
        if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
            return f"{cause.filename or 'a file'}: {UNWRITABLE[cause.errno]} ({text[:160]}). {KEPT}"
        if "DataLoader worker" in text and (
            "killed by signal" in text or "exited unexpectedly" in text
        ):
            return f"a worker that reads images has died: {text.rstrip('. ')}. Is the main memory full? {WORKERS}. {KEPT}"
        if isinstance(cause, RuntimeError) and any(word in text for word in LOST):
            said = next(word for word in LOST if word in text)
            return f"another process of this run has ended ({said}); its own error says why, where it had one. {KEPT}"
    return None


def _within(error: BaseException, module: str) -> bool:
    """Whether an error comes out of a module of that name."""
    return any(
        Path(frame.filename).stem == module for frame in traceback.extract_tb(error.__traceback__)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


_format_warning = warnings.formatwarning


_NOISE = (
    "LightningCLI's args parameter",
    ".*returned `None`, this fit will run with no optimizer",  # fit-only methods
    ".*module\\(s\\) in eval mode at the start of training",  # frozen backbones
    ".*Total length of `list` across ranks is zero",  # no validation set
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    ".*does not have many workers",
    ".*it is recommended to use `devices=1`",  # rows that fill up a batch are not counted
    "You're resuming from a checkpoint that ended before the epoch ended",  # our sampler leaves out what was read
    ".*Checkpoint directory .* exists and is not empty",  # resumed in place
    ".*It is recommended to use `self.log\\(.*sync_dist=True",  # images per second are those of one process
)


_CHATTER = (
    "litlogger",
    "litmodels",
    "TPU available",
    "`Trainer.fit` stopped: `max_epochs=",
    "`weights_only` was not set",
)


def run(command: Callable[[], object]) -> int:
    """Runs a command; an error that a user can cause is one message, without a trace.

    Returns:
        What the command returns if that is a number, or 0; 2 for a usage error, 1 for another.
    """
    stop_with_parent()
    for said_elsewhere in _NOISE:
        warnings.filterwarnings("ignore", message=said_elsewhere)
    warnings.formatwarning = _notice
    for logger in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{logger}").addFilter(
            lambda record: not any(words in record.getMessage() for words in _CHATTER)
        )
    try:
        code = command()
    except UserError as error:
        # A loader's worker wraps the message into the text of its own trace.
        message = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
        if not (error.everywhere and rank_zero_only.rank):
            print(f"error: {message}", file=sys.stderr)
        # Lightning kills the first process as soon as one that it has started ends with another code than 0.
        return 0 if error.everywhere and _started_by_lightning() else error.exit_code
    except MisconfigurationException as error:
        print(f"error: {error}", file=sys.stderr)
        return UsageError.exit_code
    except BrokenPipeError:  # what reads the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if type(error).__module__.startswith("wandb"):
            said = f"Weights & Biases: {error}. Log in by `wandb login`, or set WANDB_MODE=offline"
        elif (found := explain(error)) is None:
            raise
        else:
            said = found
        print(f"error: {said}", file=sys.stderr)
        return UserError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code if isinstance(code, int) else 0


def _notice(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning as it is printed: one of ours tells the user something of the data or the run, not of our code."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"note: {message}\n"
    return _format_warning(message, category, filename, lineno, line)


def _started_by_lightning() -> bool:
    """Whether this is not the first of the processes that `trainer.devices` starts."""
    others = {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"} & {*os.environ}
    return rank_zero_only.rank > 0 and "LOCAL_RANK" in os.environ and not others
