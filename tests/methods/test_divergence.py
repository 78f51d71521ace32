"""A loss, gradient or weight that is not finite stops the run, and never reaches a checkpoint."""

import numpy as np
import pytest
import torch
from learning import METHODS, data, draem, fit, trained
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

from lightning_ad.errors import UserError
from lightning_ad.methods import learned


class Poison(Callback):
    """Makes a weight NaN after a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            with torch.no_grad():
                trained(module)[0].fill_(np.nan)


@METHODS
def test_a_loss_that_is_not_finite_stops_the_run(build, trees, tmp_path):
    last = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    with pytest.raises(
        UserError, match=r"the loss is nan on .*train.good.*png, .*epoch 1, step 3.*last\.ckpt"
    ):
        fit(build(), data(trees), enable_checkpointing=True, callbacks=[Poison(3), last])
    with pytest.raises(UserError, match="no checkpoint has been written"):
        fit(build(), data(trees), callbacks=[Poison(1)])


@METHODS
def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(build, trees):
    class Spoil(Callback):
        def on_after_backward(self, trainer, module):
            next(p.grad for p in module.parameters() if p.grad is not None).fill_(np.inf)

    module = build()
    with pytest.raises(UserError, match=r"the gradient norm is inf on .*png"):
        fit(module, data(trees), callbacks=[Spoil()])
    assert all(p.isfinite().all() for p in trained(module))


def test_the_images_of_accumulated_gradients_are_named(trees):
    class Spoil(Callback):
        def on_after_backward(self, trainer, module):
            next(p.grad for p in module.parameters() if p.grad is not None).fill_(np.inf)

    with pytest.raises(UserError) as raised:
        fit(
            draem(),
            data(trees, batch_size=2),
            callbacks=[Spoil()],
            accumulate_grad_batches=2,
            gradient_clip_val=1.0,
        )
    assert str(raised.value).count(".png") == 4
    assert str(raised.value).endswith("Begin a new run with a lower learning rate")


def test_a_scaler_that_leaves_out_every_step_stops_the_run(trees, monkeypatch):
    monkeypatch.setattr(learned, "SKIPPED", 3)  # half precision is slow on a CPU

    class Spoil(Callback):
        def on_after_backward(self, trainer, module):
            next(p.grad for p in module.parameters() if p.grad is not None).fill_(np.nan)

    mixed = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    small = data(trees, image_size=32)
    with pytest.raises(UserError, match=r"the gradient norm is nan on .*png"):
        fit(draem(norm="group"), small, epochs=4, callbacks=[Spoil()], plugins=[mixed])


@METHODS
def test_weights_that_are_not_finite_are_not_saved(build, trees, tmp_path):
    """The second epoch's last step spoils them; the first epoch's checkpoint is named."""
    last = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    message = (
        r"the norm of the weights is nan on .*train.good.*png.*last good checkpoint is .*last\.ckpt"
    )
    with pytest.raises(UserError, match=message):
        fit(build(), data(trees), enable_checkpointing=True, callbacks=[Poison(4), last])
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 0
    assert all(v.isfinite().all() for v in kept["state_dict"].values())


@pytest.mark.parametrize("at_the_epochs_end", [True, False])
def test_weights_that_are_not_finite_are_not_the_best(at_the_epochs_end, trees, tmp_path):
    """Lightning saves them at the end of the epoch, or at that of a validation within it."""
    best = ModelCheckpoint(
        tmp_path,
        filename="best",
        monitor="validation_loss",
        save_on_train_epoch_end=at_the_epochs_end,
    )
    held_out = data(trees, validation="holdout", validation_share=0.3)
    with pytest.raises(
        UserError, match=r"the norm of the weights is nan.*no checkpoint has been written"
    ):
        fit(draem(), held_out, enable_checkpointing=True, callbacks=[Poison(2), best])
    assert not list(tmp_path.iterdir())
