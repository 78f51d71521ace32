"""What a command prints when it fails: one sentence, without a trace, and its exit code.

It covers what a user can put right, and what a machine can do to a run: full memory and disks,
workers and processes that die.
"""

import errno
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_ad.errors import UsageError, UserError
from lightning_ad.system.names import printable, show
from lightning_ad.system.signals import stop_with_parent

UNWRITABLE = {
    errno.ENOSPC: "there is no room left on the disk",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EFBIG: "files may not be that large there",
}
LOST_CONNECTION = (
    "Connection closed by peer",
    "Connection reset by peer",
    "remote process exited",
)
RELIEVE_WORKERS = "Lower data.num_workers, or data.batch_size"
KEPT = "What was saved before is whole: --resume goes on from it"

WARNINGS_NOT_SHOWN = (
    "LightningCLI's args parameter",
    ".*returned `None`, this fit will run with no optimizer",  # fit-only methods
    ".*module\\(s\\) in eval mode at the start of training",  # frozen backbones
    ".*Total length of `list` across ranks is zero",  # no validation set
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    ".*does not have many workers",
    ".*it is recommended to use `devices=1`",  # rows that pad a batch are not counted
    # Our sampler leaves out what was read before.
    "You're resuming from a checkpoint that ended before the epoch ended",
    ".*Checkpoint directory .* exists and is not empty",  # resumed in place
    ".*It is recommended to use `self.log\\(.*sync_dist=True",  # throughput is of one process
)
LOG_LINES_NOT_SHOWN = (
    "litlogger",
    "litmodels",
    "TPU available",
    "`Trainer.fit` stopped: `max_epochs=",
    "`weights_only` was not set",
)


def run(command: Callable[[], object]) -> int:
    """Runs a command and prints an error that a user can cause as one message, without a trace.

    Returns:
        What the command returns if that is a number, else 0; 2 for a usage error, 1 for another.
    """
    stop_with_parent()
    _hide_noise()
    try:
        code = command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        return _report(error)
    except MisconfigurationException as error:
        show(f"error: {error}", as_error=True)
        return UsageError.exit_code
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        show(f"error: {sentence}", as_error=True)
        return UserError.exit_code
    return code if isinstance(code, int) else 0


def explain(error: BaseException) -> str | None:
    """Returns the sentence for an error that the machine or a service caused, None for another."""
    if type(error).__module__.startswith("wandb"):
        return f"Weights & Biases: {error}. Log in by `wandb login`, or set WANDB_MODE=offline"
    for cause in _causes(error):
        for fault in FAULTS:
            sentence = fault(cause, str(cause))
            if sentence is not None:
                return f"{sentence}. {KEPT}"
    return None


def _gpu_memory(cause: BaseException, text: str) -> str | None:
    if not isinstance(cause, torch.OutOfMemoryError):
        return None
    return f"the GPU's memory is full: lower data.batch_size or data.image_size ({text[:80]})"


def _main_memory(cause: BaseException, text: str) -> str | None:
    if not isinstance(cause, MemoryError) and "can't allocate memory" not in text:
        return None
    return (
        "the main memory is full: lower data.batch_size, data.num_workers or data.image_size "
        "(PatchCore and SPADE: set model.memory_gb)"
    )


def _shared_memory(cause: BaseException, text: str) -> str | None:
    is_full = isinstance(cause, OSError) and cause.errno == errno.ENOSPC
    refused = is_full and _was_raised_in("synchronize", cause)  # a lock, of which nothing is named
    if "/dev/shm" not in text and "shared memory" not in text and not refused:
        return None
    reason = text.strip().rpartition("\n")[2][:160]
    return (
        f"the memory that workers share is full ({reason}): {RELIEVE_WORKERS}, or give /dev/shm "
        "more (docker run --shm-size 2g)"
    )


def _worker_lost_with_its_batch(cause: BaseException, text: str) -> str | None:
    """Recognises a batch that was on its way from a worker when the worker died."""
    if not isinstance(cause, OSError | EOFError) or not _was_raised_in("resource_sharer", cause):
        return None
    died = f"a worker that reads images has died ({type(cause).__name__})"
    return f"{died}. Is the main memory full? {RELIEVE_WORKERS}"


def _unwritable_file(cause: BaseException, text: str) -> str | None:
    if not isinstance(cause, OSError) or cause.errno not in UNWRITABLE:
        return None
    place = cause.filename or _folder_of_logger(cause) or "a file"
    return f"{place}: {UNWRITABLE[cause.errno]} ({text[:160]})"


def _folder_of_logger(error: BaseException) -> str | None:
    """Returns the folder of the logger that has raised an error; None if it was none."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, CSVLogger | TensorBoardLogger):
            return owner.log_dir
    return None


def _dead_worker(cause: BaseException, text: str) -> str | None:
    died = "killed by signal" in text or "exited unexpectedly" in text
    if "DataLoader worker" not in text or not died:
        return None
    reason = text.rstrip(". ")
    return (
        f"a worker that reads images has died: {reason}. Is the main memory full? {RELIEVE_WORKERS}"
    )


def _dead_process(cause: BaseException, text: str) -> str | None:
    if not isinstance(cause, RuntimeError):
        return None
    for sign in LOST_CONNECTION:
        if sign in text:
            return (
                f"another process of this run has ended ({sign}); look for its own error, if it "
                "printed one"
            )
    return None


def _missing_package(cause: BaseException, text: str) -> str | None:
    if not isinstance(cause, ModuleNotFoundError):
        return None
    return f"a package that the run was asked to use is missing: {text.strip().rstrip('.')}"


def _narrow_locale(cause: BaseException, text: str) -> str | None:
    if not isinstance(cause, UnicodeEncodeError) or cause.encoding not in ("ascii", "latin-1"):
        return None
    name = cause.object[max(0, cause.start - 20) : cause.end + 20]
    return (
        f"the locale here knows {cause.encoding} alone, and cannot write {name!a}: set LC_ALL "
        "to C.UTF-8, or PYTHONUTF8 to 1"
    )


FAULTS = (
    _narrow_locale,
    _gpu_memory,
    _main_memory,
    _shared_memory,
    _worker_lost_with_its_batch,
    _unwritable_file,
    _dead_worker,
    _dead_process,
    _missing_package,
)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)


def _was_raised_in(module: str, error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).stem == module for frame in frames)


def _report(error: UserError) -> int:
    """Prints an error and returns the exit code."""
    # A loader's worker wraps the message into the text of its own trace.
    message = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
    if not (error.everywhere and rank_zero_only.rank):
        show(f"error: {message}", as_error=True)
    # Lightning kills the first process as soon as one that it started ends with another code than 0
    if error.everywhere and _was_started_by_lightning():
        return 0
    return error.exit_code


def _was_started_by_lightning() -> bool:
    """Whether this is one of the processes that `trainer.devices` starts beside the first."""
    launchers = {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"} & {*os.environ}
    return rank_zero_only.rank > 0 and "LOCAL_RANK" in os.environ and not launchers


def _hide_noise() -> None:
    threading.excepthook = _report_thread
    for message in WARNINGS_NOT_SHOWN:
        warnings.filterwarnings("ignore", message=message)
    warnings.formatwarning = _format_warning
    for logger in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{logger}").addFilter(_is_shown)


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Prints the trace of a thread, but for a full disk: whoever waits for it raises that too."""
    error = failed.exc_value
    if not (isinstance(error, OSError) and error.errno in UNWRITABLE):
        threading.__excepthook__(failed)


def _is_shown(record: logging.LogRecord) -> bool:
    """Filters what Lightning logs, our own messages among it, and makes it printable."""
    message = record.getMessage()
    record.msg = printable(message)
    record.args = ()
    return not any(part in message for part in LOG_LINES_NOT_SHOWN)


_default_format_warning = warnings.formatwarning


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Formats a warning of ours as a note: it is about the data or the run, not about code."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"note: {printable(str(message))}\n"
    return _default_format_warning(message, category, filename, lineno, line)
