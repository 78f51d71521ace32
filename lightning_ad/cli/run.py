"""From flags and YAML to a model, its data and a trainer that writes into a run folder."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
)
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import lightning_ad.methods  # noqa: F401  (so that --model takes short names)
from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.callbacks.preemption import StopWhenTold
from lightning_ad.callbacks.throughput import RunProgressBar, ThroughputMonitor
from lightning_ad.cli.fit_only import check_new, set_fit_only
from lightning_ad.cli.flags import add_flags, seed_number
from lightning_ad.cli.parser import Parser, unmade, users_error
from lightning_ad.cli.resume import check_same, listed
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.errors import UsageError, UserError
from lightning_ad.evaluation.thresholds import Calibration, choose
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.weights import skip_weights
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.learned import LearnedModule
from lightning_ad.reporting.dashboards.callback import DashboardRecorder
from lightning_ad.reporting.facts import facts_of
from lightning_ad.reporting.provenance import fingerprint, revision
from lightning_ad.reporting.recorder import TestRecorder
from lightning_ad.system.checkpoints import WholeCheckpoints
from lightning_ad.system.run_folder import RunFolder

TRAINER_DEFAULTS: dict[str, Any] = {
    "devices": 1,
    "deterministic": "warn",
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_model_summary": False,
}


SELECT = {
    "validation_loss": "min",
    "validation_AUROC": "max",
}  # what may choose an epoch: never a test image


class RunCLI(LightningCLI):
    """Builds model, data and trainer from YAML and flags; the trainer gets the run folder's loggers and callbacks."""

    folder: RunFolder
    recorder: TestRecorder
    resumed = False
    stage = "fit"
    training_set: str | None = None  # its fingerprint, on the first process
    revision: str | None = None  # of the code, as it was at the start

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(
            AnomalyModule,
            AnomalyDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            subclass_mode_model=True,
            parser_class=Parser,
            auto_configure_optimizers=False,
            parser_kwargs={"allow_abbrev": False},
            run=False,
            args=list(args),
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Raises UsageError for a seed that is none."""
        super().parse_arguments(parser, args)
        if not 0 <= (seed := seed_number(self.config.seed_everything)) < 2**32:
            raise UsageError(f"seed_everything must be at least 0 and below 2**32, {seed} came")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What is ours beside model, data and trainer."""
        add_flags(parser)

    @property
    def name(self) -> str:
        """Of the run."""
        return self.config.name or f"{type(self.model).__name__.lower()}-{self.datamodule.title}"

    @property
    def checkpoint(self) -> Path:
        """The file that holds what was learned, and is tested."""
        return self.folder.checkpoint

    @property
    def dashboard_images(self) -> int:
        """How many images of a set the dashboards show."""
        return self.config_init.dashboard_images

    @property
    def config_text(self) -> str:
        """The configuration as YAML, all defaults written out."""
        config = self.config.clone()
        for key in ("config", "resume"):
            config.pop(key, None)
        return self.parser.dump(config, skip_none=False, skip_validation=True)

    def instantiate_classes(self) -> None:
        """Builds model and data; what they say against their arguments is not to drown in the parser's words."""
        known = (
            skip_weights() if self.config.extend else nullcontext()
        )  # the checkpoint brings them
        try:
            with known:
                super().instantiate_classes()
        except ValueError as error:
            raise users_error(error) or unmade(error) or error from None
        self.model.metrics.memory_gb = self.config_init.metrics_gb
        if self.config_init.compile:
            torch._dynamo.config.recompile_limit = (
                64  # levels share code: three in training, validation and test
            )
            for network in self.model.compile_targets:
                network.compile()

    def keep_features(self) -> None:
        """Opens the cache of features (`--feature_cache`)."""
        if (folder := self.config_init.feature_cache) is not None:
            for backbone in (
                module for module in self.model.modules() if isinstance(module, Backbone)
            ):
                backbone.keep(Path(folder), self.config_init.feature_cache_gb)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer of the configuration, with the run folder's loggers and callbacks before its own."""
        if self.config_init.trainer.default_root_dir is not None:
            raise UsageError(
                "trainer.default_root_dir is the run folder; choose its place with --output and --name"
            )
        set_fit_only(self.model, self.config)
        self.check_data()
        self.revision = None if rank_zero_only.rank else revision()
        self.folder = self.open_folder()
        wanted = self.config_init.trainer
        if isinstance(self.model, FitOnlyModule) and wanted.enable_checkpointing is not False:
            self.model.progress_folder, self.model.progress_of = (
                self.folder.progress,
                self.training_set,
            )
        self.recorder = TestRecorder(
            self.folder, self.config_init.threshold, self.config_init.reject
        )
        self.model.validation_used_for_selection = self.config_init.select != "last" or self.waits()
        try:
            trainer = super().instantiate_trainer(
                callbacks=[self.recorder, *self.callbacks(listed(wanted.callbacks), wanted)],
                logger=self.loggers(wanted.logger),
                default_root_dir=str(self.folder.path),
                plugins=self.plugins(listed(wanted.plugins)),
                **kwargs,
            )
            if str(wanted.precision).startswith("16") and not trainer.precision.startswith("16"):
                raise UsageError(
                    f"trainer.precision {wanted.precision} cannot be had on this device; ask for {trainer.precision}"
                )
        except (UserError, ValueError, TypeError, MisconfigurationException) as error:
            if not (self.config.resume or rank_zero_only.rank):
                self.folder.discard()
            raise users_error(error) or UsageError(
                f"the trainer cannot be made: {error}"
            ) from error
        return trainer

    def plugins(self, theirs: list[Any]) -> list[Any]:
        """Those of the configuration, and one that writes checkpoints, where it has none."""
        return (
            theirs
            if any(isinstance(p, CheckpointIO) for p in theirs)
            else [WholeCheckpoints(), *theirs]
        )

    def tested_checkpoint(self) -> Path:
        """The file of the weights that are tested.

        Raises:
            UserError: where a best epoch was asked for and none was validated.
        """
        if (
            self.config_init.select != "last"
            and not (best := self.folder.best_checkpoint).is_file()
        ):
            raise UserError(
                f"--select {self.config_init.select}: no epoch was validated, so there is no {best}"
            )
        return self.checkpoint

    def callbacks(self, theirs: list[Callback], wanted: Any) -> list[Callback]:
        """Those of the configuration, with a checkpoint of the last epoch and a progress bar where it has none."""
        ours: list[Callback] = []
        if self.config_init.select != "last" and wanted.enable_checkpointing is False:
            raise UsageError(
                f"--select {self.config_init.select} needs checkpoints: set trainer.enable_checkpointing"
            )
        if wanted.enable_checkpointing is not False:
            last = ModelCheckpoint(
                self.folder.checkpoints,
                filename="last",
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
            # The last one is written last: it holds what the best one remembers.
            ours += [
                ConfigInCheckpoint(self.config_text, self.training_set),
                *self.selection(),
                last,
            ]
        if wanted.logger is not False:
            facts = partial(facts_of, self.model, self.datamodule, self.revision, self.training_set)
            ours += [DashboardRecorder(facts, self.config_text, self.dashboard_images)]
            ours += (
                [ThroughputMonitor(), LearningRateMonitor()]
                if isinstance(self.model, LearnedModule)
                else []
            )
        kept = self.folder.last_checkpoint if wanted.enable_checkpointing is not False else None
        return [
            *ours,
            *progress_bar(theirs, wanted),
            *theirs,
            StopWhenTold(kept),
        ]  # once averages have the step

    def selection(self) -> list[Callback]:
        """What keeps the best epoch, where one is asked for."""
        metric, data = self.config_init.select, self.config_init.data
        if metric == "last":
            return []
        if not isinstance(self.model, LearnedModule):
            raise UsageError(
                f"--select {metric}: {type(self.model).__name__} reads the images once, and has no epochs"
            )
        if data.validation == "none":
            raise UsageError(
                f"--select {metric} needs held-out images: add --data.validation holdout"
            )
        # Only the first process has looked for the data yet.
        anomalous = rank_zero_only.rank > 0 or any(
            s.label for s in self.datamodule.samples["validation"]
        )
        if metric == "validation_AUROC" and not data.validation_anomalies and not anomalous:
            raise UsageError(
                "--select validation_AUROC needs anomalies: add --data.validation_anomalies true"
            )
        best = ModelCheckpoint(
            self.folder.checkpoints,
            filename="best",
            monitor=metric,
            mode=SELECT[metric],
            enable_version_counter=False,
        )
        return [best]

    def waits(self) -> bool:
        """Whether a held-out image can end the training, or lower its learning rate."""
        schedule = str(getattr(self.config.model, "init_args", {}).get("lr_scheduler"))
        callbacks = listed(self.config_init.trainer.callbacks)
        stops = any(
            isinstance(c, EarlyStopping) and str(c.monitor).startswith("validation")
            for c in callbacks
        )
        return stops or ("ReduceLROnPlateau" in schedule and "validation" in schedule)

    def check_data(self) -> None:
        """Finds the data before anything is written, so that a wrong path leaves no run folder behind."""
        if rank_zero_only.rank == 0:  # the others may come before the demo is drawn
            self.datamodule.prepare_data()
            self.datamodule.setup(self.stage)
            if self.stage == "fit":
                self.training_set = fingerprint(self.datamodule.samples["train"])
                if self.config.extend:
                    check_new(self.model, self.datamodule, self.config.extend)
            self.check_threshold()
        self.model.check_image_size(*self.datamodule.input_size)

    def check_threshold(self) -> None:
        """Raises UsageError where the run cannot end with the threshold that is asked for; before the fit."""
        method, reject, samples = (
            self.config_init.threshold,
            self.config_init.reject,
            self.datamodule.samples,
        )
        if self.stage == "test" or (method is None and reject is None):
            return
        if reject is not None and (isinstance(method, int | float) or method == "f1"):
            raise UsageError(
                f"--threshold {method} rejects what lies above it: leave out --reject, or --threshold"
            )
        bad = torch.zeros(sum(bool(s.label) for s in samples["validation"]))
        good = torch.zeros(len(samples["validation"]) - len(bad))
        drawn = good if self.config_init.data.validation_anomalies else bad
        known = type(self.model).chi_square_threshold is not AnomalyModule.chi_square_threshold
        found = choose(
            method, reject, Calibration(good, good, drawn), lambda share: 0.0 if known else None
        )
        if (
            found is None
            or found.method not in ("conformal", "quantile", "f1")
            or self.config_init.select != "last"
        ):
            return
        wanted = self.config_init.trainer
        every, epochs = wanted.check_val_every_n_epoch or 1, wanted.max_epochs or 0
        if isinstance(self.model, LearnedModule) and epochs > 0 and epochs % every:
            raise UsageError(
                f"--threshold {found.method} rests on a validation of the last epoch, and after {epochs} epochs there "
                f"is none: set trainer.check_val_every_n_epoch ({every}) to a divisor of trainer.max_epochs"
            )

    def open_folder(self) -> RunFolder:
        """A new version, or with --resume the newest unfinished one; processes but the first only read."""
        output = Path(self.config.output)
        if self.config.resume:
            folder = RunFolder.unfinished(output, self.name)
            check_same(folder, self.config_text)
            self.resumed = folder.last_checkpoint.is_file()
            if not self.resumed and not folder.progress.is_dir():
                rank_zero_info(f"{folder.path} has no checkpoint yet: it begins anew")
            if not rank_zero_only.rank and not folder.config.is_file():
                folder.write_config(self.config_text)
            return folder
        if rank_zero_only.rank:
            return RunFolder(output / self.name)
        folder = RunFolder.create(output, self.name)
        folder.write_config(self.config_text)
        return folder

    def loggers(self, wanted: Logger | list[Logger] | bool | None) -> list[Logger] | bool:
        """TensorBoard and CSV files in the run folder, and those of the configuration after them."""
        if wanted is False:
            return False
        theirs = [] if wanted is True else listed(wanted)
        logs = self.folder.logs
        return [
            TensorBoardLogger(logs, name="", version="tensorboard"),
            CSVLogger(logs, name="csv"),
            *theirs,
        ]


def progress_bar(theirs: list[Callback], wanted: Any) -> list[Callback]:
    """A progress bar, unless the configuration has one or wants none."""
    if wanted.enable_progress_bar is False or any(isinstance(c, ProgressBar) for c in theirs):
        return []
    return [RunProgressBar(refresh_rate=1 if sys.stderr.isatty() else 50)]
