"""What every learned method can be asked for: optimizers, averages, precision, compiling."""

import copy
import csv

import pytest
import torch
from learning import METHODS, data, draem, fit, pfm, trained
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision, TorchSyncBatchNorm

from lightning_ad.callbacks.averaging import LastEpochsAveraging, StepsAveraging
from lightning_ad.callbacks.throughput import ThroughputMonitor
from lightning_ad.errors import UsageError
from lightning_ad.methods import DRAEM


class Snapshots(Callback):
    """The weights after each optimizer step."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.states.append([p.detach().clone() for p in module.parameters() if p.requires_grad])


@METHODS
def test_the_optimizer_and_schedule_of_the_configuration(build, trees):
    module = build(
        optimizer=lambda p: torch.optim.SGD(p, lr=0.25),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.1),
    )
    trainer = fit(module, data(trees))
    optimizer = trainer.optimizers[0]
    assert isinstance(optimizer, torch.optim.SGD)
    assert [g["initial_lr"] for g in optimizer.param_groups] == [0.25] * len(optimizer.param_groups)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0025)


def test_draem_has_the_drops_of_its_configuration(trees):
    trainer = fit(
        draem(lr_milestones=(0.4, 0.8), lr_factor=0.1), data(trees), epochs=5, limit_train_batches=1
    )
    assert sorted(trainer.lr_scheduler_configs[0].scheduler.milestones) == [2, 4]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch(trees):
    """Group norm does not see the batch, so two halves of a batch are the batch."""
    weights = []
    for batch, accumulate in ((4, 1), (2, 2)):
        module = pfm(norm="group", optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        fit(module, data(trees, batch_size=batch), epochs=1, accumulate_grad_batches=accumulate)
        weights.append(torch.cat([p.flatten() for p in trained(module)]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


@METHODS
def test_clipping_bounds_the_step(build, trees):
    """With plain SGD of rate 1, a step is as long as the clipped gradient."""
    module = build(optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    before, steps = [p.clone() for p in trained(module)], Snapshots()
    fit(module, data(trees), epochs=1, max_steps=1, gradient_clip_val=1e-3, callbacks=[steps])
    length = sum(
        ((a - b).double() ** 2).sum() for a, b in zip(before, steps.states[0], strict=True)
    ).sqrt()
    assert length.item() == pytest.approx(1e-3, rel=1e-2)


@METHODS
def test_ema_is_the_weighted_sum_of_the_weights_of_all_steps(build, trees):
    module, steps = build(), Snapshots()
    fit(module, data(trees), callbacks=[steps, StepsAveraging(decay=0.5)])
    expected = steps.states[0]
    for state in steps.states[1:]:
        expected = [0.5 * a + 0.5 * b for a, b in zip(expected, state, strict=True)]
    for average, wanted in zip(trained(module), expected, strict=True):
        torch.testing.assert_close(average, wanted)


@pytest.mark.parametrize("validation", ["none", "holdout"])
def test_the_average_of_the_last_epochs_is_the_mean_of_their_weights(validation, trees):
    module, steps = draem(), Snapshots()
    datamodule = data(
        trees, validation=validation, validation_share=0.25
    )  # 2 steps an epoch, either way
    fit(module, datamodule, epochs=5, callbacks=[steps, LastEpochsAveraging(3)])
    assert len(steps.states) == 10
    for average, *ends in zip(trained(module), *(steps.states[i] for i in (5, 7, 9)), strict=True):
        torch.testing.assert_close(average, torch.stack(ends).mean(0))
    assert len(module.calibration) == (2 if validation == "holdout" else 0)
    with pytest.raises(UsageError, match=r"at most trainer\.max_epochs \(2\), got 3"):
        fit(draem(), data(trees), epochs=2, callbacks=[LastEpochsAveraging(3)])


@pytest.mark.parametrize(
    "build", [draem, lambda: pfm(target="squeezenet1_1")], ids=["draem", "pfm"]
)
def test_compiled_networks_give_the_same_maps(build, trees):
    """By all of torch.compile but its C++ compiler, which takes minutes."""
    module = build().eval()
    compiled = copy.deepcopy(module)
    for network in compiled.compile_targets:
        network.compile(backend="aot_eager")
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(compiled(image).map, module(image).map, rtol=1e-3, atol=1e-4)
    assert compiled.state_dict().keys() == module.state_dict().keys()


@METHODS
def test_compiled_networks_are_trained(build, trees):
    def by_gradients():
        return build(optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # not by their signs, as Adam

    module = by_gradients()
    for network in module.compile_targets:
        network.compile(backend="eager")  # compiling the gradients takes longer, and is torch's
    plain = by_gradients()
    for one in (module, plain):
        fit(one, data(trees), epochs=1, limit_train_batches=1)  # each size is compiled anew
    for compiled, expected in zip(trained(module), trained(plain), strict=True):
        torch.testing.assert_close(compiled, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "build", [draem, lambda: draem(noise="device"), pfm], ids=["draem", "device noise", "pfm"]
)
def test_bf16_mixed_comes_near_to_float32(build, trees):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        losses[precision] = float(
            fit(build(), data(trees), precision=precision).callback_metrics["loss"]
        )
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)
    assert losses["bf16-mixed"] != losses["32-true"]


@METHODS
def test_channels_last_changes_rounding_only(build):
    image = torch.rand(2, 3, 64, 64)
    maps = [build(channels_last=layout).eval()(image).map for layout in (True, False)]
    torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-5)


@METHODS
def test_synchronised_batch_norm_leaves_maps_and_frozen_networks_as_they_are(build, trees):
    """One process; over several it needs GPUs."""
    module, image = (
        build().eval(),
        torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    )
    before, frozen = (
        module(image).map,
        {n for n, p in module.named_parameters() if not p.requires_grad},
    )
    synchronised = TorchSyncBatchNorm().apply(copy.deepcopy(module))
    assert any(isinstance(part, torch.nn.SyncBatchNorm) for part in synchronised.modules())
    torch.testing.assert_close(synchronised(image).map, before)
    assert {n for n, p in synchronised.named_parameters() if not p.requires_grad} == frozen
    losses = []
    for one in (module, synchronised):
        fit(one, data(trees), epochs=1)
        losses.append(one.trainer.callback_metrics["loss"].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_resuming_brings_back_scheduler_and_scaler(trees, tmp_path):
    """16-mixed as on a GPU, with its gradient scaler, on the CPU."""

    def run(resumed=None, **more):
        scaler = torch.amp.GradScaler(
            "cpu", growth_interval=2
        )  # grows each epoch, so that a fresh one would show
        module = draem(lr_milestones=(0.5, 1.0), norm="group")
        mixed = MixedPrecision("16-mixed", "cpu", scaler)
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=2,
            plugins=[mixed],
            default_root_dir=tmp_path,
            **quiet,
            **more,
        )
        small = data(trees, image_size=32)  # a CPU is slow in float16
        trainer.fit(module, datamodule=small, ckpt_path=resumed, weights_only=True)
        return module, scaler.get_scale(), trainer.optimizers[0].param_groups[0]["lr"]

    whole, scale, rate = run()

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch == 0

    last = ModelCheckpoint(tmp_path / "half", filename="last", save_on_train_epoch_end=True)
    _, half_scale, _ = run(callbacks=[last, Stop()])
    resumed, scale_again, rate_again = run(resumed=tmp_path / "half/last.ckpt")
    assert half_scale != scale == scale_again
    assert rate == rate_again == pytest.approx(4e-6)
    assert all(torch.equal(a, b) for a, b in zip(trained(whole), trained(resumed), strict=True))


def test_what_is_logged(trees, tmp_path):
    logger = CSVLogger(tmp_path, name="")
    fit(draem(), data(trees), logger=logger, log_every_n_steps=1, callbacks=[ThroughputMonitor()])
    rows = list(csv.DictReader((tmp_path / "version_0/metrics.csv").open()))
    step = next(row for row in rows if row["loss"])
    assert float(step["loss"]) == pytest.approx(
        sum(float(step[f"loss_{part}"]) for part in ("l2", "ssim", "focal"))
    )
    assert float(step["gradient_norm"]) > 0
    epoch = next(row for row in rows if row["wait_share"])
    assert 0 < float(epoch["wait_share"]) < 1
    assert float(epoch["images_per_second"]) > 0


def test_a_calibration_is_that_of_the_weights(trees):
    """Validated after every second epoch of three: the last epoch's weights have none."""
    module, held_out = draem(), data(trees, validation="holdout", validation_share=0.25)
    with pytest.warns(UserWarning, match="the last epoch was not validated"):
        fit(module, held_out, epochs=3, check_val_every_n_epoch=2)
    assert len(module.calibration) == 0
    fit(module, held_out, epochs=2, check_val_every_n_epoch=2)
    assert len(module.calibration) == 2


def test_the_average_leaves_alone_what_does_not_move(trees):
    module = pfm()
    before = {name: p.clone() for name, p in module.named_parameters() if not p.requires_grad}
    fit(module, data(trees), callbacks=[StepsAveraging(decay=0.9)])
    assert before
    assert all(
        torch.equal(p, before[name]) for name, p in module.named_parameters() if name in before
    )


def test_one_image_and_batch_norm_over_a_pooled_map_is_said(trees):
    module = DRAEM(8, discriminator="deeplabv3", discriminator_encoder="resnet18")
    with pytest.raises(UsageError, match=r"this one is of 1 image: choose a data\.batch_size"):
        fit(module, data(trees, batch_size=7))


def test_what_a_network_draws_is_that_of_the_epoch(trees):
    """Dropout in a resumed run is that of one that never stopped."""
    draws = {}
    for epochs in (1, 2):
        torch.manual_seed(epochs)  # another state at the start

        class Draw(Callback):
            def on_train_batch_start(self, trainer, module, batch, batch_idx):
                draws.setdefault(trainer.current_epoch, []).append(torch.rand(1).item())

        fit(draem(norm="group"), data(trees), epochs=epochs, callbacks=[Draw()])
    first, second = draws[0][:2], draws[1]
    assert draws[0] == first * 2
    assert first != second


def test_held_out_images_keep_their_synthetic_anomalies(trees):
    """Weights that do not move have the same validation in each epoch."""
    module = draem(optimizer=lambda p: torch.optim.SGD(p, lr=0.0), norm="group")
    seen = []

    class Keep(Callback):
        def on_validation_end(self, trainer, module):
            seen.append(
                {
                    k: float(trainer.callback_metrics[k])
                    for k in ("validation_loss", "validation_AUROC")
                }
            )

    held_out = {"validation": "holdout", "validation_share": 0.4, "validation_anomalies": True}
    fit(module, data(trees, **held_out), epochs=3, callbacks=[Keep()])
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
