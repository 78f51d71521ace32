"""What the commands do: train, evaluate, preview."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_ad.cli import EvaluateCLI, PreviewCLI, RunCLI
from lightning_ad.cli.fit_only import announce, seen_otherwise
from lightning_ad.cli.parser import split_flags
from lightning_ad.cli.settings import configs
from lightning_ad.errors import UsageError, UserError, WeightsError
from lightning_ad.features.weights import read_state
from lightning_ad.reporting.cost import Stopwatch
from lightning_ad.reporting.preview import write_preview
from lightning_ad.reporting.recorder import ConfigInCheckpoint
from lightning_ad.reporting.results import summarise
from lightning_ad.reporting.run_folder import RunFolder, finished_checkpoint
from lightning_ad.survival import Interrupted


def train(args: Sequence[str] | None = None) -> RunFolder:
    """One run: fits, tests and writes the run folder.

    Args:
        args: the flags; None for those of the command line. Without a --config, the demo is run.

    Raises:
        UserError: for whatever the user can put right.
    """
    args = list(sys.argv[1:] if args is None else args)
    extended = next((b for a, b in pairwise(split_flags(args)) if a == "--extend"), None)
    with _own_config(Path(extended)) if extended else nullcontext([]) as own:
        if extended and (unwanted := [a for a in args if a.startswith("--model")]):
            raise UsageError(f"{unwanted[0]} has no place here: the run that is extended decides the method")
        cli = RunCLI([*own, *args] if extended else _with_demo(args))
    announce(cli.model, cli.datamodule, cli.trainer, resumed=cli.resumed)
    cli.keep_features()
    watch = Stopwatch()
    checkpoint = str(cli.folder.last_checkpoint) if cli.resumed else None
    with _interruptible(cli):
        with watch.stage("fit"):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
        for kept in (c for c in cli.trainer.callbacks if isinstance(c, ConfigInCheckpoint)):
            watch.go_on(kept.spent_before(cli.model))
        if cli.trainer.is_global_zero:
            shutil.rmtree(cli.folder.progress, ignore_errors=True)  # the summary is in a checkpoint
        with watch.stage("test"):
            if cli.config_init.trainer.enable_checkpointing is not False:
                _take_over(cli, _of_the_first(cli.trainer, cli.tested_checkpoint))
            cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        summarise(cli, watch)
    return cli.folder


def _take_over(cli: RunCLI, checkpoint: Path) -> None:
    """Gives the model what is in a checkpoint; a gallery that is too large for memory stays in the file."""
    learned = read_state(checkpoint)
    if cli.config_init.select != "last":
        rank_zero_info(f"--select {cli.config_init.select}: epoch {learned['epoch']} is tested")
    cli.training_set = learned.get(ConfigInCheckpoint.TRAINING_SET, cli.training_set)
    cli.model.take_over(learned)


def _of_the_first(trainer: Trainer, found: Callable[[], Path]) -> Path:
    """What `found` gives on the first process, on all of them; its error too."""
    result: Path | UserError | None = None
    if trainer.is_global_zero:
        try:
            result = found()
        except UserError as error:
            result = error
    result = trainer.strategy.broadcast(result)
    if isinstance(result, UserError):
        raise result
    assert result is not None
    return result


def preview(args: Sequence[str] | None = None) -> Path:
    """`lightning-ad preview`: a contact sheet of the synthetic anomalies that a configuration trains on.

    Args:
        args: the flags of `train.py`, with `--count` and `--file`; None for those of the command line.

    Raises:
        UserError: for whatever the user can put right; where the method has no synthetic anomalies, too.
    """
    cli = PreviewCLI(_with_demo(sys.argv[1:] if args is None else args))
    path, synthesis = Path(cli.config.file), cli.model.synthesis
    if synthesis is None:
        raise UsageError(f"{type(cli.model).__name__} trains on good images alone; preview a DRAEM, say")
    path.parent.mkdir(parents=True, exist_ok=True)
    shown, drawn = write_preview(cli.datamodule, synthesis, cli.config.count, path)
    print(f"{path}: {shown} synthetic anomalies, from {drawn} training images drawn")
    return path


def _with_demo(args: Sequence[str]) -> list[str]:
    """The flags; without a --config, those of the demo."""
    args = list(args)
    names = [a.partition("=")[0] for a in args]
    if {"--config", "-c", "-h", "--help"} & {*names} or any(n.endswith(".help") for n in names):
        return args
    if chosen := [n for n in names if n in ("--model", "--data.layout", "--data.category")]:
        raise UsageError(f"{chosen[0]} without --config: name a method by --config configs/patchcore.yaml, say")
    rank_zero_info("No --config given: this is the demo (configs/demo.yaml).")
    return ["--config", str(configs() / "demo.yaml"), *args]


def evaluate(args: Sequence[str] | None = None) -> RunFolder:
    """`evaluate.py RUN`: the metrics of a finished run again, or on other data with --data.* flags.

    Raises:
        UserError: for whatever the user can put right.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(_EVALUATE_HELP)
        return RunFolder(Path())
    target, flags = Path(args[0]), args[1:]
    if unwanted := [f for f in flags if f.startswith(("--model", "--config", "-c", "--resume", "--name"))]:
        raise UsageError(f"{unwanted[0]} has no place here: the checkpoint decides the method and its arguments")
    run = None if target.suffix == ".ckpt" else RunFolder.find(target)
    elsewhere = any(f.startswith("--output") for f in flags)
    with _own_config(target) as own:
        cli = EvaluateCLI([*own, *flags], finished_checkpoint(target), None if elsewhere else run)
        otherwise = seen_otherwise(Path(own[1]).read_text(), cli.config.data)
    if cli.datamodule.layout == "folder" and any(f.startswith("--data.root") for f in flags):
        rank_zero_info(
            "Good images of the folder that count as training images are not tested; if the method has not learned "
            "from them, add --data.layout_options.test_share 1"
        )
    if otherwise:
        rank_zero_warn(
            f"{target} was trained with {otherwise}: scores of images that are seen otherwise are of another kind, and "
            "these metrics are not those of the run"
        )
    watch = Stopwatch()
    cli.keep_features()
    with watch.stage("test"):
        _take_over(cli, cli.checkpoint)
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    summarise(cli, watch)
    return cli.folder


_EVALUATE_HELP = """usage: evaluate.py RUN [--data.* ...] [--trainer.* ...] [--output FOLDER]
       evaluate.py --compare RUN_A RUN_B
       evaluate.py --verify RUN

The metrics of a finished run again, to the last digit, or on other data; two runs on the same test images; or whether
a run's recorded metrics come out of its checkpoint again (exit code 1 where they do not).

RUN                a run folder (runs/patchcore-mtd, or one version_<n> in it) or a .ckpt file
--data.root ROOT   another place of the data; every --data.* flag of train.py is taken
                   (a plain folder: with --data.layout_options.test_share 1, all its good images are tested)
--threshold, --reject, --metrics_gb
                   as of train.py (docs/metrics.md); the run's own where they are left out
--trust PACKAGES   of which the run's configuration may name classes, as of train.py
--trainer.devices  several processes; every --trainer.* flag of train.py is taken
--output FOLDER    where the results go (default: into the run folder; those of a .ckpt file into runs)"""


@contextmanager
def _own_config(target: Path) -> Iterator[list[str]]:
    """The flag that gives a finished run's settings; those of its machine and of its first fit are left out.

    Raises:
        UsageError: where there is no finished run.
        WeightsError: for a file that is not a checkpoint of ours.
    """
    checkpoint = finished_checkpoint(target)
    text = read_state(checkpoint).get(ConfigInCheckpoint.KEY)
    if not isinstance(text, str):
        raise WeightsError(f"{checkpoint} is not a checkpoint of lightning_ad: it has no configuration in it")
    config = yaml.safe_load(text)
    config["trainer"] = {name: config["trainer"].get(name) for name in ("precision", "max_epochs")}
    for name in ("output", "select", "extend", "suspects", "trim"):
        config.pop(name, None)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml.safe_dump(config))
        file.flush()
        yield ["--config", file.name]


@contextmanager
def _interruptible(cli: RunCLI) -> Iterator[None]:
    """On Ctrl+C, Lightning ends the program without a word; says how to go on instead."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, SystemExit) and not cli.trainer.interrupted:
            raise
        there = cli.folder.last_checkpoint.is_file() or cli.folder.progress.is_dir()
        then = "goes on with it" if there else "begins it anew, for nothing was kept yet"
        raise Interrupted(f"interrupted; {cli.folder.path} is unfinished, --resume {then}") from error
