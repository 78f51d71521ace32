"""The base of fit-only methods: a method with the four functions that it must have is enough."""

import gc
import weakref

import pytest
import torch
from contract import extending, fitted, trainer, training_images, tree_data
from faults import KillAt
from minimal import Minimal
from runs import QUIET, assert_same_weights

from lightning_ad.callbacks.preemption import StopOnSignal
from lightning_ad.commands.train import train
from lightning_ad.errors import Preempted, UsageError, UserError
from lightning_ad.methods import PaDiM
from lightning_ad.methods.run_settings import RunSettings


def small_padim():
    torch.manual_seed(0)
    return PaDiM("squeezenet1_1", None, dimension=20)


def test_four_functions_are_enough_for_a_fit_that_would_keep_its_progress(trees, tmp_path):
    module = Minimal()
    module.configure_run(RunSettings(progress_folder=tmp_path / "progress", progress_minutes=0.0))
    fitted(module, tree_data(trees["mvtec"]), tmp_path)
    images = training_images(tree_data(trees["mvtec"]))
    torch.testing.assert_close(module.mean, images.mean(0))
    assert module.progress is None
    assert not (tmp_path / "progress").exists()


def test_a_method_that_can_go_on_keeps_its_progress(trees, tmp_path):
    module = small_padim()
    module.configure_run(RunSettings(progress_folder=tmp_path / "progress", progress_minutes=0.0))
    fitted(module, tree_data(trees["mvtec"]), tmp_path)
    assert list((tmp_path / "progress/0-of-1").glob("images-*.ckpt"))


def test_an_interruption_says_that_a_method_of_four_functions_begins_anew(trees, tmp_path):
    stop = [KillAt(name="SIGTERM", first=True), StopOnSignal(None)]
    module = Minimal()
    module.configure_run(RunSettings(progress_folder=tmp_path / "progress"))
    message = "Minimal keeps nothing of an unfinished fit, and --resume reads them anew"
    with pytest.raises(Preempted, match=message):
        trainer(tmp_path, callbacks=stop).fit(module, datamodule=tree_data(trees["mvtec"]))


def test_an_interrupted_run_of_four_functions_is_resumed(trees, tmp_path):
    data = ["--data.layout", "mvtec", "--data.root", str(trees["mvtec"]), "--data.category"]
    data += ["bottle", "--data.image_size", "64", "--data.batch_size", "2"]
    (tmp_path / "minimal.yaml").write_text("model: {class_path: minimal.Minimal}")
    args = ["--config", str(tmp_path / "minimal.yaml"), "--trust", "minimal,faults", *data]
    args += ["--trainer.max_epochs", "1", "--output", str(tmp_path), *QUIET]
    stop = ["--trainer.callbacks+", "faults.KillAt", "--trainer.callbacks.name", "SIGTERM"]
    with pytest.raises(Preempted, match="Minimal keeps nothing of an unfinished fit"):
        train([*args, *stop, "--trainer.callbacks.first", "true"])
    resumed = train([*args, "--resume"])
    assert [folder.name for folder in resumed.path.parent.iterdir()] == ["version_0"]
    assert_same_weights(resumed.path, train([*args, "--name", "whole"]).path)


@pytest.mark.parametrize("wish", [{"list_suspects": True}, {"trim": 0.1}])
def test_suspects_of_a_method_that_cannot_list_them_are_refused_before_the_fit(wish):
    with pytest.raises(UsageError, match="Minimal cannot list suspects"):
        Minimal().configure_run(RunSettings(**wish))


def test_a_method_that_cannot_be_extended_says_so(trees, tmp_path):
    _, run = fitted(Minimal(), tree_data(trees["mvtec"]), tmp_path)
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="Minimal cannot add images to a finished fit"):
        extending(Minimal(), tmp_path / "a.ckpt")


def test_an_extended_fit_is_not_trimmed():
    with pytest.raises(UsageError, match="leave out --extend, or --trim"):
        small_padim().configure_run(RunSettings(trim=0.1), {})


def test_the_settings_stay_and_the_checkpoint_goes_once_a_fit_is_extended(trees, tmp_path):
    first, run = fitted(small_padim(), tree_data(trees["mvtec"]), tmp_path)
    run.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    factors = weakref.ref(checkpoint["state_dict"]["factors"])
    settings = RunSettings(list_suspects=True)
    module = small_padim()
    module.configure_run(settings, checkpoint)
    assert module.run_settings is settings
    assert module.extending
    assert torch.equal(module.factors, first.factors)
    del checkpoint
    gc.collect()
    assert factors() is None


def test_a_second_fit_without_suspects_forgets_those_of_the_first(trees, tmp_path):
    module = small_padim()
    module.configure_run(RunSettings(list_suspects=True))
    fitted(module, tree_data(trees["mvtec"]), tmp_path)
    assert len(module.suspects) == 7
    module.configure_run(RunSettings())
    fitted(module, tree_data(trees["mvtec"]), tmp_path)
    assert module.suspects is None


@pytest.mark.parametrize(
    "wish", [{"max_epochs": 2}, {"max_steps": 1}, {"accumulate_grad_batches": 2}]
)
def test_a_trainer_that_does_not_read_the_images_once_is_refused(trees, tmp_path, wish):
    with pytest.raises(UsageError, match=rf"trainer\.{next(iter(wish))} must be"):
        trainer(tmp_path, **wish).fit(Minimal(), datamodule=tree_data(trees["mvtec"]))


def test_a_part_of_the_training_images_is_no_fit(trees, tmp_path):
    run = trainer(tmp_path, limit_train_batches=1)
    with pytest.raises(UserError, match="the epoch ended after 4 of 7 training images"):
        run.fit(Minimal(), datamodule=tree_data(trees["mvtec"]))
