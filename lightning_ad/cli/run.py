"""From flags and YAML to a model, its data and a trainer that writes into a run folder."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_ad import methods
from lightning_ad.callbacks.config_in_checkpoint import ConfigInCheckpoint
from lightning_ad.callbacks.preemption import StopOnSignal
from lightning_ad.callbacks.settings_stay import SettingsStay
from lightning_ad.callbacks.throughput import ThroughputMonitor
from lightning_ad.cli import checks
from lightning_ad.cli.fit_only import checkpoint_to_extend, missing_settings
from lightning_ad.cli.flags import add_flags, seed_number
from lightning_ad.cli.monitors import check_callbacks, check_monitors
from lightning_ad.cli.numbers import check_numbers
from lightning_ad.cli.parser import (
    Parser,
    unmade,
    users_error,
    with_plain_text,
    write_out_homes,
)
from lightning_ad.cli.resume import (
    Inputs,
    as_list,
    checkpoint_to_resume,
    settings_missing_in,
    unfinished_run,
)
from lightning_ad.cli.trainer import (
    LoggerPlan,
    PartMaker,
    checkpoint_callbacks,
    loggers,
    plan_logger,
    plugins,
    progress_bar,
)
from lightning_ad.cli.training_files import Digests, training_files, write_digests
from lightning_ad.cli.tuning import check_tuning
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.errors import UsageError, UserError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.weights import read_state, skip_weights
from lightning_ad.methods.base import AnomalyModule
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.learned import LearnedModule
from lightning_ad.methods.run_settings import RunSettings
from lightning_ad.reporting.dashboards.callback import DashboardRecorder
from lightning_ad.reporting.facts import dashboard_facts
from lightning_ad.reporting.provenance import fingerprint, revision
from lightning_ad.reporting.recorder import TestRecorder
from lightning_ad.system.launch import Wanted, device_count, take_place
from lightning_ad.system.run_folder import RunFolder

TRAINER_DEFAULTS: dict[str, Any] = {
    "devices": 1,
    "deterministic": "warn",
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_model_summary": False,
}
COMPILED_VARIANTS = 64  # levels share code, in training, validation and test each: torch allows 8


def method_names() -> list[str]:
    """Returns the names that --model takes."""
    bases = (AnomalyModule, LearnedModule, FitOnlyModule)
    names = []
    for name, member in vars(methods).items():
        if isinstance(member, type) and issubclass(member, bases) and member not in bases:
            names.append(name)
    return sorted(names, key=str.lower)


class RunCLI(LightningCLI):
    """Builds the model, its data, the run folder and the trainer of a run.

    Attributes:
        folder: of the run.
        recorder: keeps the results of the test.
        resume_from: the checkpoint that the fit goes on from; None to begin anew.
        training_set: its fingerprint, on the first process.
        files: digests of the files that it reads, on the first process.
        revision: of the code as it was at the start, on the first process.
        environment: says which process this is, where Lightning would ask the wrong launcher.
    """

    stage = "fit"
    folder: RunFolder
    recorder: TestRecorder
    resume_from: Path | None = None
    training_set: str | None = None
    revision: str | None = None
    environment: ClusterEnvironment | None = None

    def __init__(self, args: Sequence[str]) -> None:
        self.files: Digests = {}
        super().__init__(
            AnomalyModule,
            AnomalyDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            subclass_mode_model=True,
            parser_class=Parser,
            auto_configure_optimizers=False,
            parser_kwargs={"allow_abbrev": False, "method_names": method_names()},
            run=False,
            args=list(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds our flags to those of model, data and trainer; loggers are made later."""
        add_flags(parser)
        parser.add_instantiator(plan_logger, Logger)
        self.parts = PartMaker()
        for kind in PartMaker.KINDS:
            parser.add_instantiator(self.parts, kind)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Reads the flags, and finds out which process of the run this is.

        Raises:
            UsageError: for a seed that is out of range, or other processes than those asked for.
        """
        super().parse_arguments(parser, args)
        check_numbers(self.config)
        self.config = with_plain_text(self.config)
        write_out_homes(self.config)
        seed = seed_number(self.config.seed_everything)
        if not 0 <= seed < 2**32:
            raise UsageError(f"seed_everything must be at least 0 and below 2**32, got {seed}")
        trainer = self.config.trainer
        devices = device_count(trainer.devices, trainer.accelerator)
        self.environment = take_place(Wanted(devices, trainer.num_nodes))
        if self.config.extend:
            self.see_images_as(self.config.extend)

    def see_images_as(self, run: str) -> None:
        """Sets what a run that is extended could not set yet to what it did: its images stay."""
        for name, value in missing_settings(run).items():
            if self.config.data[name] != value:
                rank_zero_info(
                    f"{run} was made before data.{name} could be set: images are preprocessed as "
                    "they were then"
                )
                self.config.data[name] = value

    @property
    def name(self) -> str:
        """The run's name: `--name`, or the method and the data set."""
        method = type(self.model).__name__.lower()
        return self.config.name or f"{method}-{self.datamodule.file_title}"

    @cached_property
    def config_text(self) -> str:
        """The configuration as YAML, all defaults written out."""
        config = self.config.clone()
        for key in ("config", "resume"):
            config.pop(key, None)
        return self.parser.dump(config, skip_none=False, skip_validation=True)

    @property
    def checkpoint(self) -> Path:
        """The file that holds what was learned, and is tested."""
        return self.folder.checkpoint

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether the trainer writes checkpoints."""
        return self.config_init.trainer.enable_checkpointing is not False and not self.is_trial

    @property
    def is_trial(self) -> bool:
        """Whether a few batches of each stage only show that they go through (fast_dev_run)."""
        return bool(self.config_init.trainer.fast_dev_run)

    @property
    def dashboard_images(self) -> int:
        """How many images of a set the dashboards show."""
        return self.config_init.dashboard_images

    def tested_checkpoint(self) -> Path | None:
        """The checkpoint that is tested, the same on all processes; None for the weights as is.

        Raises:
            UserError: if the best epoch was asked for, and none was validated.
        """
        if not self.keeps_checkpoints:
            return None
        return _from_first_process(self.trainer, self._selected_checkpoint)

    def _selected_checkpoint(self) -> Path:
        metric = self.config_init.select
        best = self.folder.best_checkpoint
        if metric != "last" and not best.is_file():
            raise UserError(f"--select {metric}: no epoch was validated, so there is no {best}")
        return self.checkpoint

    def load_learned(self, checkpoint: Path) -> None:
        """Gives the model what a checkpoint holds, and takes over which images it was trained on.

        A gallery that is too large for memory stays in the file.
        """
        learned = read_state(checkpoint)
        metric = self.config_init.select
        if metric != "last":
            rank_zero_info(f"--select {metric}: epoch {learned['epoch']} is tested")
        self.training_set = learned.get(ConfigInCheckpoint.TRAINING_SET, self.training_set)
        self.model.load_learned(learned)

    def instantiate_classes(self) -> None:
        """Builds model, data and trainer.

        Raises:
            UserError: what they say against their arguments, without the parser's words around it.
        """
        try:
            with self.weights_context():
                super().instantiate_classes()
        except ValueError as error:
            raise users_error(error) or unmade(error) or error from None

    def weights_context(self) -> AbstractContextManager:
        """Within it the model is built: without weights, if a checkpoint brings them."""
        return skip_weights() if self.config.extend else nullcontext()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Prepares the run, and builds its trainer."""
        self.parts.check()
        checks.check_method(self.config_init, self.model)
        settings = run_settings(self.config, self.config_init)
        checks.check_wishes(self.config_init, self.model, settings)
        extend = None
        if self.config.extend:
            method = type(self.model).__name__
            extend = checkpoint_to_extend(self.config.extend, method, self.config.data)
        if self.config.resume:
            self.read_as_before()
        self.check_data()
        if rank_zero_only.rank == 0:
            checks.check_test(self.config.trainer.limit_test_batches, self.datamodule)
            if self.stage == "fit":
                checks.check_wishes_of_data(self.config_init, self.model, self.datamodule, extend)
                self._check_callbacks()
        self.revision = None if rank_zero_only.rank else revision()
        self.folder = self.open_folder()
        try:
            self.configure_model(settings, extend)
            return self.build_trainer(**kwargs)
        except (UserError, ValueError, TypeError, MisconfigurationException) as error:
            if not (self.config.resume or rank_zero_only.rank):
                self.folder.discard()
            raise users_error(error) or UsageError(
                f"the trainer cannot be made: {error}"
            ) from error

    def read_as_before(self) -> None:
        """Lets a run that an earlier version began go on reading its files as that version did."""
        folder = RunFolder.unfinished(Path(self.config.output), self.name)
        missing = settings_missing_in(folder)
        if missing:
            for name, value in missing.items():
                self.config.data[name] = value
            self.datamodule = AnomalyDataModule(**{**self.datamodule.arguments, **missing})

    def _check_callbacks(self) -> None:
        theirs = as_list(self.config_init.trainer.callbacks)
        check_callbacks(theirs)
        check_monitors(self.config, theirs, self.model, self.datamodule)

    def check_data(self) -> None:
        """Finds the data before anything is written: a wrong path leaves no run folder behind."""
        if rank_zero_only.rank == 0:  # the others may come before the demo is drawn
            self.datamodule.prepare_data()
            self.datamodule.setup(self.stage)
            self.config.data.bits = self.datamodule.bits  # those found, for whoever evaluates it
            self.datamodule.mask_survey.warn()
            if self.stage == "fit":
                self.training_set = fingerprint(self.datamodule.samples["train"])
                self.files = training_files(self.datamodule)
        self.model.check_image_size(*self.datamodule.input_size)

    def open_folder(self) -> RunFolder:
        """Opens a new version, or with --resume the newest unfinished one.

        All processes but the first only read it.
        """
        output = Path(self.config.output)
        if self.config.resume:
            inputs = Inputs(self.config_text, self.training_set, self.files)
            folder = unfinished_run(output, self.name, inputs)
            self.resume_from = checkpoint_to_resume(folder)
            if rank_zero_only.rank == 0 and not folder.config.is_file():
                folder.write_config(self.config_text)
            return folder
        if rank_zero_only.rank:
            return RunFolder(output / self.name)
        folder = RunFolder.begin(output, self.name)
        write_digests(folder.training_files, self.files)
        folder.write_config(self.config_text)
        return folder

    def configure_model(self, settings: RunSettings, extend: dict[str, Any] | None) -> None:
        """Gives the model what the run asks for, and what makes its networks faster.

        Args:
            settings: of the run.
            extend: the checkpoint of a finished fit, to which images are added; None for none.
        """
        config = self.config_init
        if self.keeps_checkpoints:
            settings = replace(
                settings, progress_folder=self.folder.progress, training_set=self.training_set
            )
        self.model.configure_run(settings, extend)
        if config.compile:
            torch._dynamo.config.recompile_limit = COMPILED_VARIANTS
            for network in self.model.compile_targets:
                network.compile()
        if config.feature_cache is not None:
            for module in self.model.modules():
                if isinstance(module, Backbone):
                    module.keep(Path(config.feature_cache), config.feature_cache_gb)

    def build_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer of the configuration, with our callbacks before the user's."""
        config = self.config_init
        wanted = config.trainer
        self.recorder = TestRecorder(self.folder, config.threshold, config.reject)
        trainer = super().instantiate_trainer(
            callbacks=[self.recorder, *self.callbacks(as_list(wanted.callbacks))],
            logger=self.loggers(wanted.logger),
            default_root_dir=str(self.folder.path),
            plugins=plugins(as_list(wanted.plugins), self.environment),
            **kwargs,
        )
        checks.check_precision(wanted.precision, trainer)
        return trainer

    def callbacks(self, theirs: list[Callback]) -> list[Callback]:
        """Returns the user's callbacks between ours.

        Raises:
            UsageError: for one whose training no checkpoint and no configuration would hold.
        """
        check_tuning(theirs)
        config = self.config_init
        ours: list[Callback] = []
        last = None
        if self.keeps_checkpoints:
            last = self.folder.last_checkpoint
            ours.append(ConfigInCheckpoint(self.config_text, self.training_set))
            ours += checkpoint_callbacks(self.folder, config.select)
        ours.append(SettingsStay(config.trainer.accumulate_grad_batches))
        if config.trainer.logger is not False:
            recorder = DashboardRecorder(self.facts, self.config_text, self.dashboard_images)
            ours.append(recorder)
            if isinstance(self.model, LearnedModule):
                ours += [ThroughputMonitor(), LearningRateMonitor()]
        ours += progress_bar(theirs, config.trainer.enable_progress_bar)
        return [*ours, *theirs, StopOnSignal(last)]  # after averages, which take the step too

    def facts(self) -> dict[str, str]:
        """Returns what dashboards list about the run."""
        return dashboard_facts(self.model, self.datamodule, self.revision, self.training_set)

    def loggers(self, wanted: LoggerPlan | list[LoggerPlan] | bool | None) -> list[Logger] | bool:
        """Returns the user's loggers after ours; False if there are to be none."""
        if wanted is False:
            return False
        theirs = [] if wanted is True else as_list(wanted)
        return loggers(self.folder, theirs)


def run_settings(config: Namespace, config_init: Namespace) -> RunSettings:
    """Returns what a run asks of its method, without what is known once its folder is there.

    Args:
        config: all settings.
        config_init: the same, with the objects that were made of them.
    """
    stops = checks.uses_validation(config.model, as_list(config_init.trainer.callbacks))
    return RunSettings(
        metrics_gb=config.metrics_gb,
        validation_used_for_selection=config.select != "last" or stops,
        list_suspects=config.suspects,
        trim=config.trim,
        progress_minutes=config.progress_minutes,
    )


def _from_first_process(trainer: Trainer, find: Callable[[], Path]) -> Path:
    """Calls `find` on the first process; returns its result, or raises its error, on all."""
    result: Path | UserError | None = None
    if trainer.is_global_zero:
        try:
            result = find()
        except UserError as error:
            result = error
    result = trainer.strategy.broadcast(result)
    if isinstance(result, UserError):
        raise result
    assert result is not None
    return result
