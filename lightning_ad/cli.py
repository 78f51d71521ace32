"""The command line: `train.py`, `evaluate.py` and `lightning-ad`; parses, builds, runs, and explains errors."""

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import lightning_ad.methods  # noqa: F401  (so that --model takes short names)
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.errors import UsageError, UserError, WeightsError
from lightning_ad.features.weights import read_state, skip_weights
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.reporting.recorder import ConfigInCheckpoint, TestRecorder
from lightning_ad.reporting.results import Stopwatch, summarise
from lightning_ad.reporting.run_folder import RunFolder

TRAINER_DEFAULTS: dict[str, Any] = {
    "devices": 1,
    "deterministic": "warn",
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_model_summary": False,
}


class RunCLI(LightningCLI):
    """Builds model, data and trainer from YAML and flags; the trainer gets the run folder's loggers and callbacks."""

    folder: RunFolder
    recorder: TestRecorder
    resumed = False

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(
            AnomalyModule,
            AnomalyDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            run=False,
            args=list(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What is ours beside model, data and trainer."""
        parser.add_argument("--name", type=str | None, default=None, help="of the run; <method>-<data set>-<category>")
        parser.add_argument("--output", type=str, default="runs", help="the folder of all runs")
        parser.add_argument(
            "--resume",
            action="store_true",
            help="go on with the newest unfinished run of that name, in place",
        )
        for target in ("data.seed", "model.init_args.seed"):
            parser.link_arguments("seed_everything", target, compute_fn=int)

    @property
    def name(self) -> str:
        """Of the run."""
        return self.config.name or f"{type(self.model).__name__.lower()}-{self.datamodule.title}"

    @property
    def config_text(self) -> str:
        """The configuration as YAML, all defaults written out."""
        config = self.config.clone()
        for key in ("config", "resume"):
            config.pop(key, None)
        return self.parser.dump(config, skip_none=False, skip_validation=True)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer of the configuration, with the run folder's loggers and callbacks before its own."""
        self.check_data()
        self.folder = self.open_folder()
        self.recorder = TestRecorder(self.folder)
        wanted = self.config_init.trainer
        return super().instantiate_trainer(
            callbacks=[self.recorder, *self.callbacks(_listed(wanted.callbacks), wanted)],
            logger=self.loggers(wanted.logger),
            default_root_dir=str(self.folder.path),
            **kwargs,
        )

    def callbacks(self, theirs: list[Callback], wanted: Any) -> list[Callback]:
        """Those of the configuration, with a checkpoint of the last epoch and a progress bar where it has none."""
        ours: list[Callback] = []
        if wanted.enable_checkpointing is not False:
            ours += [ConfigInCheckpoint(self.config_text), ModelCheckpoint(self.folder.checkpoints, save_last=True)]
        return [*ours, *_progress_bar(theirs, wanted), *theirs]

    def check_data(self) -> None:
        """Finds the data before anything is written, so that a wrong path leaves no run folder behind."""
        if rank_zero_only.rank == 0:
            self.datamodule.prepare_data()
        self.datamodule.setup()
        self.model.check_image_size(*self.datamodule.geometry.output)

    def open_folder(self) -> RunFolder:
        """A new version, or with --resume the newest unfinished one; processes but the first only read."""
        output = Path(self.config.output)
        if self.config.resume:
            folder = RunFolder.unfinished(output, self.name)
            self.check_same(folder)
            self.resumed = folder.last_checkpoint.is_file()
            return folder
        if rank_zero_only.rank:
            return RunFolder(output / self.name)
        folder = RunFolder.create(output, self.name)
        folder.config.write_text(self.config_text)
        return folder

    def check_same(self, folder: RunFolder) -> None:
        """Raises UsageError where --resume would go on with other settings of the method or the data."""
        if not folder.config.is_file():
            return
        before, now = (_flat(yaml.safe_load(text)) for text in (folder.config.read_text(), self.config_text))
        fixed = [k for k in sorted({*before, *now}) if k.startswith(("model", "data", "seed_everything"))]
        free = ("data.num_workers", "data.root")
        changed = [k for k in fixed if before.get(k) != now.get(k) and k not in free]
        if changed:
            key = changed[0]
            raise UsageError(
                f"the run {folder.path} was begun with {key} {before.get(key)}, now it is {now.get(key)}: "
                "leave out --resume to begin a new run, or give the same settings"
            )

    def loggers(self, wanted: Logger | list[Logger] | bool | None) -> list[Logger] | bool:
        """TensorBoard and CSV files in the run folder, and those of the configuration after them."""
        if wanted is False:
            return False
        theirs = [] if wanted is True else _listed(wanted)
        logs = self.folder.logs
        return [TensorBoardLogger(logs, name="", version="tensorboard"), CSVLogger(logs, name="csv"), *theirs]


class EvaluateCLI(RunCLI):
    """The same for a finished run: its own settings, on its own data or on others."""

    def __init__(self, args: Sequence[str], run: RunFolder | None) -> None:
        self.run = run
        super().__init__(args)

    def instantiate_classes(self) -> None:
        """Backbones are built without weights: the checkpoint brings them."""
        with skip_weights():
            super().instantiate_classes()

    def open_folder(self) -> RunFolder:
        """A folder of its own: the run's own results are left as they are."""
        if rank_zero_only.rank:
            return RunFolder(Path(self.config.output))
        if self.run is not None:
            return RunFolder.create(self.run.path, "evaluations")
        return RunFolder.create(Path(self.config.output), f"{self.name}-evaluation")

    def callbacks(self, theirs: list[Callback], wanted: Any) -> list[Callback]:
        """A progress bar; nothing is saved."""
        return [*_progress_bar(theirs, wanted), *theirs]

    def loggers(self, wanted: Logger | list[Logger] | bool | None) -> list[Logger] | bool:
        """None: an evaluation is one row, in metrics.json."""
        return False


def train(args: Sequence[str] | None = None) -> RunFolder:
    """`train.py`: fits, tests and writes the run folder.

    Args:
        args: the flags; None for those of the command line. Without a --config, the demo is run.

    Raises:
        UserError: for whatever the user can put right.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not any(a == "--config" or a.startswith("--config=") for a in args):
        args = ["--config", str(_configs() / "demo.yaml"), *args]
    cli = RunCLI(args)
    watch = Stopwatch()
    checkpoint = str(cli.folder.last_checkpoint) if cli.resumed else None
    with watch.stage("fit"):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    _require_completed(cli)
    with watch.stage("test"):
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    summarise(cli, watch)
    return cli.folder


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
    if unwanted := [f for f in flags if f.startswith(("--model", "--config", "--resume"))]:
        raise UsageError(f"{unwanted[0]} has no place here: the checkpoint decides the method and its arguments")
    run = None if target.suffix == ".ckpt" else RunFolder.find(target)
    checkpoint = run.last_checkpoint if run else target
    state = read_state(checkpoint)
    if ConfigInCheckpoint.KEY not in state:
        raise WeightsError(f"{checkpoint} is not a checkpoint of lightning_ad: it has no configuration in it")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(_evaluation_config(state[ConfigInCheckpoint.KEY]))
        file.flush()
        cli = EvaluateCLI(["--config", file.name, *flags], run)
    watch = Stopwatch()
    with watch.stage("test"):
        cli.trainer.test(
            cli.model, datamodule=cli.datamodule, ckpt_path=str(checkpoint), weights_only=True, verbose=False
        )
    summarise(cli, watch)
    return cli.folder


_NOISE = (
    "LightningCLI's args parameter",
    ".*returned `None`, this fit will run with no optimizer",  # fit-only methods
    ".*module\\(s\\) in eval mode at the start of training",  # frozen backbones
    ".*Total length of `list` across ranks is zero",  # no validation set
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    ".*does not have many workers",
    ".*it is recommended to use `devices=1`",  # rows that fill up a batch are not counted
    ".*Checkpoint directory .* exists and is not empty",  # resumed in place
)

_EVALUATE_HELP = """usage: evaluate.py RUN [--data.* ...] [--trainer.* ...] [--output FOLDER]

The metrics of a finished run again, to the last digit, or on other data.

RUN                a run folder (runs/patchcore-mtd, or one version_<n> in it) or a .ckpt file
--data.root ROOT   another place of the data; every --data.* flag of train.py is taken
--trainer.devices  several processes; every --trainer.* flag of train.py is taken
--output FOLDER    where the results of a .ckpt file go (default: runs)"""


def _evaluation_config(text: str) -> str:
    """The run's configuration, but on this machine's devices: of the trainer only the precision counts."""
    config = yaml.safe_load(text)
    config["trainer"] = {"precision": config["trainer"].get("precision")}
    return yaml.safe_dump(config)


def _require_completed(cli: RunCLI) -> None:
    if cli.trainer.interrupted:
        raise UserError(f"interrupted; {cli.folder.path} is unfinished, --resume goes on with it")


def _configs() -> Path:
    """The folder of configs: beside the package in a checkout, in it where it is installed."""
    package = Path(__file__).parent
    return next(p for p in (package.parent / "configs", package / "configs") if (p / "demo.yaml").is_file())


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _progress_bar(theirs: list[Callback], wanted: Any) -> list[Callback]:
    if wanted.enable_progress_bar is False or any(isinstance(c, ProgressBar) for c in theirs):
        return []
    return [TQDMProgressBar(refresh_rate=1 if sys.stderr.isatty() else 50)]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, sub in tree.items() for k, v in _flat(sub, f"{prefix}.{key}" if prefix else key).items()}


def run(command: Callable[[], object]) -> int:
    """Runs a command; an error that a user can cause is one message, without a trace.

    Returns:
        0 for success, 2 for a usage error, 1 for another.
    """
    for said_elsewhere in _NOISE:
        warnings.filterwarnings("ignore", message=said_elsewhere)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda r: "litlogger" not in r.getMessage())
    try:
        command()
    except UserError as error:
        # A loader's worker wraps the message into the text of its own trace.
        message = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
        print(f"error: {message}", file=sys.stderr)
        return error.exit_code
    except MisconfigurationException as error:
        print(f"error: {error}", file=sys.stderr)
        return UsageError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def main() -> int:
    """`lightning-ad train|evaluate`."""
    commands: dict[str, Callable[[Sequence[str]], RunFolder]] = {"train": train, "evaluate": evaluate}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in commands:
        print("usage: lightning-ad {train,evaluate} ...   (--help after the command explains its flags)")
        return 0 if name in ("-h", "--help") else 2
    return run(lambda: commands[name](sys.argv[2:]))
