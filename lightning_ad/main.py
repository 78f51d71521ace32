"""`train.py`, `evaluate.py` and `lightning-ad`: which command is meant, and how errors are explained."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_ad.cli.benchmark import benchmark
from lightning_ad.cli.categories import several, train_each
from lightning_ad.cli.compare import compare
from lightning_ad.cli.datasets import datasets
from lightning_ad.cli.verify import verify
from lightning_ad.commands import evaluate, preview, train
from lightning_ad.errors import UsageError, UserError
from lightning_ad.faults import explain
from lightning_ad.reporting.run_folder import RunFolder
from lightning_ad.survival import stop_with_parent

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


def train_one_or_each(args: Sequence[str] | None = None) -> RunFolder | int:
    """`train.py`: one run, or one for each where --data.category is `all` or a list, or --data.fold is `all`.

    Raises:
        UserError: for whatever the user can put right.
    """
    args = list(sys.argv[1:] if args is None else args)
    parts = several(args)
    return train_each(args, parts) if parts.names else train(args)


def evaluate_or_compare(args: Sequence[str] | None = None) -> RunFolder | int:
    """`evaluate.py RUN`, `evaluate.py --compare RUN_A RUN_B` or `evaluate.py --verify RUN`.

    Raises:
        UserError: for whatever the user can put right.
    """
    args = list(sys.argv[1:] if args is None else args)
    if args[:1] == ["--verify"]:
        return verify(args[1:], evaluate)
    return compare(args[1:]) if args[:1] == ["--compare"] else evaluate(args)


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
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as it is printed: one of ours tells the user something of the data or the run, not of our code."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"note: {message}\n"
    return _format_warning(message, category, filename, lineno, line)


def _started_by_lightning() -> bool:
    """Whether this is not the first of the processes that `trainer.devices` starts."""
    others = {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"} & {*os.environ}
    return rank_zero_only.rank > 0 and "LOCAL_RANK" in os.environ and not others


def train_script() -> int:
    """`train.py`."""
    return run(train_one_or_each)


def evaluate_script() -> int:
    """`evaluate.py`."""
    return run(evaluate_or_compare)


def main() -> int:
    """`lightning-ad train|evaluate|preview|datasets|benchmark`."""
    commands: dict[str, Callable[[Sequence[str]], object]] = {
        "train": train_one_or_each, "evaluate": evaluate_or_compare, "preview": preview, "datasets": datasets,
        "benchmark": benchmark,
    }  # fmt: skip
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in commands:
        print(f"usage: lightning-ad {{{','.join(commands)}}} ...   (--help after the command explains its flags)")
        return 0 if name in ("-h", "--help") else 2
    return run(lambda: commands[name](sys.argv[2:]))
