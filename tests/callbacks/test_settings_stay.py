"""Callbacks that would make another training than the configuration says."""

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from small import make_small
from small_fits import trainer, tree_data

from lightning_ad.callbacks import StepsAveraging
from lightning_ad.callbacks.settings_stay import SettingsStay
from lightning_ad.cli.tuning import check_tuning
from lightning_ad.errors import UsageError


class Changing(Callback):
    """Changes the batch size or the accumulation after the first batch."""

    def __init__(self, what, value):
        self.what = what
        self.value = value

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        changed = trainer if self.what == "accumulate_grad_batches" else trainer.datamodule
        setattr(changed, self.what, self.value)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("batch_size", "changed data.batch_size from 4 to 3"),
        ("accumulate_grad_batches", "changed trainer.accumulate_grad_batches from 1 to 3"),
    ],
)
def test_a_callback_that_changes_a_setting_ends_the_run(what, sentence, trees, tmp_path):
    run = trainer(tmp_path, callbacks=[SettingsStay(1), Changing(what, 3)])
    with pytest.raises(UsageError, match=sentence):
        run.fit(make_small("DRAEM"), datamodule=tree_data(trees["mvtec"]))


def test_a_schedule_of_the_accumulation_may_change_it_and_a_smaller_last_step_is_said(
    trees, tmp_path
):
    schedule = GradientAccumulationScheduler({0: 3})
    run = trainer(tmp_path, callbacks=[SettingsStay(1), schedule])
    run.fit(make_small("DRAEM"), datamodule=tree_data(trees["mvtec"]))
    assert run.global_step == 1
    run = trainer(tmp_path, accumulate_grad_batches=4, callbacks=[SettingsStay(4)])
    with pytest.warns(UserWarning, match=r"is made of 2 batches, .*accumulate_grad_batches \(4\)"):
        run.fit(make_small("DRAEM"), datamodule=tree_data(trees["mvtec"]))


@pytest.mark.parametrize(
    ("callback", "sentence"),
    [
        (BatchSizeFinder(), "give data.batch_size"),
        (LearningRateFinder(), "give it by model.learning_rate"),
        (StochasticWeightAveraging(1e-3), "LastEpochsAveraging or StepsAveraging in its place"),
    ],
)
def test_callbacks_whose_training_is_kept_nowhere_are_refused(callback, sentence):
    with pytest.raises(UsageError, match=f"{type(callback).__name__} .*{sentence}"):
        check_tuning([StepsAveraging(), callback])
