import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from contract import LearnedContract
from lightning.pytorch import Callback
from scipy.spatial.distance import cdist
from small_fits import trainer, tree_data
from tiling import assert_together_as_alone

from lightning_ad.data.dataset import AnomalyDataset
from lightning_ad.errors import UsageError
from lightning_ad.methods import NotFittedError
from lightning_ad.methods.cfa.losses import hypersphere_losses, nearest_squared_distances
from lightning_ad.methods.cfa.model import CFA
from lightning_ad.methods.cfa.networks import coordinates


def small(**more):
    torch.manual_seed(0)
    return CFA(
        **{
            "backbone": "squeezenet1_1",
            "weights": None,
            "features": "post_relu",
            "gamma_d": 16,
            **more,
        }
    )


def data(trees, **more):
    return tree_data(trees["mvtec"], **more)


def fit(module, datamodule, folder, epochs=1, resumed=None, **more):
    run = trainer(folder, max_epochs=epochs, num_sanity_val_steps=0, **more)
    run.fit(module, datamodule=datamodule, ckpt_path=resumed, weights_only=True)
    return run


def descriptors(module, image):
    """What the released code computes, in float64: [B, h * w, D]."""
    with torch.no_grad():
        maps = [m.double() for m in module.backbone(image)]
    if module.features == "pre_relu":
        maps = [torch.where(m > 0, m, 0.01 * m) for m in maps]
    maps = [F.avg_pool2d(m, 3, 1, 1) for m in maps]
    height, width = maps[0].shape[2:]
    joined = torch.cat([F.interpolate(m, (height, width), mode="bilinear") for m in maps], 1)
    rows, columns = (np.linspace(-1, 1, n) for n in (height, width))
    where = torch.from_numpy(np.stack(np.meshgrid(rows, columns, indexing="ij"))).expand(
        len(image), -1, -1, -1
    )
    weight = module.descriptor.projection.weight.detach().double()
    x = F.conv2d(
        torch.cat([joined, where], 1),
        weight[:, :, None, None],
        module.descriptor.projection.bias.double(),
    )
    return x.detach().flatten(2).mT.numpy()


def test_the_bank_is_the_mean_of_the_first_descriptors_and_stays(trees, tmp_path):
    module, datamodule = small(), data(trees)
    untrained = copy.deepcopy(module)
    banks = []

    class Keep(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            banks.append(pl_module.bank.clone())

    trainer = fit(
        module, datamodule, tmp_path, epochs=2, callbacks=[Keep()], enable_checkpointing=True
    )
    images = torch.cat([datamodule.training_set()[i].image for i in range(7)])
    np.testing.assert_allclose(
        banks[0], descriptors(untrained, images).mean(0), rtol=1e-4, atol=1e-5
    )
    assert not torch.equal(
        module.descriptor.projection.weight, untrained.descriptor.projection.weight
    )
    loaded = CFA.load_from_checkpoint(
        trainer.checkpoint_callback.best_model_path, weights_only=True
    )
    assert all(torch.equal(banks[0], bank) for bank in (banks[1], module.bank, loaded.bank))
    prediction = module.eval()(images)
    torch.testing.assert_close(loaded.eval()(images).map, prediction.map, rtol=0, atol=0)
    assert prediction.map.shape == (7, 64, 64)
    assert prediction.nearest is None


def test_the_bank_does_not_depend_on_batches_order_workers_or_what_an_epoch_reads(trees, tmp_path):
    options = [
        {},
        {"batch_size": 1},
        {"batch_size": 16, "num_workers": 2},
        {"batch_size": 3, "seed": 9},
    ]
    banks = []
    for more in options:
        module = small(gamma_c=2)
        fit(
            module, data(trees, **more), tmp_path, limit_train_batches=1, enable_checkpointing=False
        )
        banks.append(module.bank)
    assert len(banks[0]) == 15 * 15 // 2
    for bank in banks[1:]:
        torch.testing.assert_close(bank, banks[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_neither_makes_the_bank_again_nor_reads_other_batches(
    workers, trees, tmp_path, monkeypatch
):
    seen = []

    class Order(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.append(batch.index.tolist())

    whole, half, resumed = small(), small(), small()
    datamodule = {"num_workers": workers}
    fit(
        whole,
        data(trees, **datamodule),
        tmp_path,
        epochs=4,
        callbacks=[Order()],
        enable_checkpointing=False,
    )
    undisturbed = list(seen)
    assert [len(b) for b in undisturbed] == [4, 3] * 4
    trainer = fit(half, data(trees, **datamodule), tmp_path, epochs=2, enable_checkpointing=True)
    seen.clear()
    monkeypatch.setattr(CFA, "_first_bank", lambda self: pytest.fail("the bank was made again"))
    last = trainer.checkpoint_callback.best_model_path
    more = {"callbacks": [Order()], "enable_checkpointing": False}
    fit(resumed, data(trees, **datamodule), tmp_path, epochs=4, resumed=last, **more)
    assert seen == undisturbed[4:]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_training_lowers_the_loss_and_moves_the_radius(trees, tmp_path):
    module, losses = small(), []

    class Keep(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            losses.append(float(trainer.callback_metrics["loss"]))
            assert set(trainer.callback_metrics) >= {"loss_attraction", "loss_repulsion"}

    trainer = fit(
        module, data(trees), tmp_path, epochs=6, callbacks=[Keep()], enable_checkpointing=False
    )
    assert losses[-1] < 0.7 * losses[0]
    assert module.radius.item() > 5e-3  # 12 steps of about the learning rate
    group = trainer.optimizers[0].param_groups[0]
    assert type(trainer.optimizers[0]) is torch.optim.AdamW
    assert (group["lr"], group["weight_decay"], group["amsgrad"]) == (1e-3, 5e-4, True)
    assert any(p is module.radius for p in group["params"])
    assert all(not p.requires_grad for p in module.backbone.parameters())


def test_losses_and_scores_are_those_of_all_distances(trees, tmp_path):
    """K = 2, J = 1, against all distances in float64.

    Descriptors are those of the released code, the radius lies between the distances.
    """
    module = small(
        backbone="resnet18",
        features="pre_relu",
        neighbours=2,
        hard_negatives=1,
        alpha=0.01,
        nu=0.5,
        sigma=0,
    )
    fit(module, data(trees), tmp_path, enable_checkpointing=False)
    image = torch.rand(2, 3, 64, 64)
    queries = descriptors(module, image).reshape(2 * 256, -1)
    squared = np.sort(cdist(queries, module.bank.double(), "sqeuclidean"), axis=1)
    r2 = np.median(squared[:, 2]) + 0.01
    with torch.no_grad():
        module.radius.fill_(r2**0.5)
        parts = module.losses(SimpleNamespace(image=image))
        prediction = module.eval()(image)
    attraction, repulsion = (
        np.maximum(squared[:, :2] - r2, 0).mean() / 0.5,
        np.maximum(r2 - squared[:, 2] - 0.01, 0).mean(),
    )
    assert parts["loss_attraction"].item() == pytest.approx(attraction, rel=1e-3)
    assert parts["loss_repulsion"].item() == pytest.approx(repulsion / 0.5, rel=1e-3)
    assert min(attraction, repulsion) > 0
    d = np.sqrt(squared[:, :2])
    grid = (d[:, 0] * np.exp(-d[:, 0]) / np.exp(-d).sum(1)).reshape(2, 1, 16, 16)
    expected = F.interpolate(torch.from_numpy(grid), (64, 64), mode="bilinear")[:, 0].numpy()
    np.testing.assert_allclose(prediction.map, expected, rtol=1e-4)
    np.testing.assert_allclose(prediction.score, expected.max((1, 2)), rtol=1e-4)


def test_the_loss_by_hand():
    """r = 1, alpha = 0.1, nu = 0.001, K = 3.

    Attraction is (0 + 0 + 3 + 0 + 1 + 2) / 6, repulsion (0.4 + 0 + 0 + ...) / 6, times 1,000.
    """
    squared = torch.tensor(
        [[0.1, 0.2, 4.0, 0.5, 0.95, 9.0], [0.3, 2.0, 3.0, 4.0, 5.0, 6.0]], dtype=torch.float64
    )
    radius = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    attraction, repulsion = hypersphere_losses(squared, radius, 3, 0.1, 1e-3)
    assert attraction.item() == pytest.approx(1000 * (3 + 1 + 2) / 6)
    assert repulsion.item() == pytest.approx(1000 * 0.4 / 6)
    (attraction + repulsion).backward()
    assert radius.grad.item() == pytest.approx(
        1000 * (-2 * 3 + 2 * 1) / 6
    )  # three attracted, one repelled


def test_distances_have_the_gradient_of_all_distances():
    queries, bank = torch.randn(9, 5, requires_grad=True), torch.randn(30, 5)
    weights = torch.rand(9, 4)
    found = nearest_squared_distances(queries, bank, 4)
    (found * weights).sum().backward()
    brute = queries.detach().double().requires_grad_()
    expected = (brute[:, None] - bank.double()).square().sum(2).topk(4, largest=False).values
    (expected * weights.double()).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(queries.grad.double(), brute.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_pre_relu_taps_are_the_sums_in_a_plain_resnet(name):
    module = CFA(name, None, gamma_d=64)
    assert [k.partition(".")[0] for k in module.backbone.layers] == ["layer1", "layer2", "layer3"]
    plain = torchvision.models.get_model(name, weights=None).eval()
    plain.load_state_dict(module.backbone.body.state_dict(), strict=False)
    sums, image = {}, torch.rand(2, 3, 64, 64)
    for stage in (plain.layer1, plain.layer2, plain.layer3):
        # The last block's last call of its ReLU gets the sum, and overwrites it.
        stage[-1].relu.register_forward_pre_hook(
            lambda relu, args: sums.update({relu: args[0].clone()})
        )
    with torch.no_grad():
        plain((image - module.backbone.mean) / module.backbone.std)
    for twin in (module, copy.deepcopy(module)):
        for ours, expected in zip(twin.backbone(image), sums.values(), strict=True):
            assert (expected < 0).any()
            torch.testing.assert_close(
                ours, expected, rtol=0, atol=1e-5 * expected.abs().max().item()
            )
    negative = [m.min().item() for m in module._maps(image)]
    assert negative == pytest.approx([0.01 * s.min().item() for s in sums.values()], rel=1e-3)


def test_post_relu_takes_the_layers_as_they_are():
    image = torch.rand(1, 3, 64, 64)
    module = CFA("resnet18", None, features="post_relu")
    assert all(m.min() == 0 for m in module._maps(image))
    linear = CFA(
        "mobilenet_v2", None, features="post_relu", gamma_d=8
    )  # blocks that end in a sum, with no ReLU
    assert linear.descriptor.projection.weight.shape == ((24 + 32 + 96) // 8, 24 + 32 + 96 + 2)
    assert linear._maps(image)[0].min() < 0


def test_coordinates_are_the_last_two_channels():
    where = coordinates(3, 5)
    assert where[0].tolist() == [-1, -1]
    assert where[2 * 5 + 4].tolist() == [1, 1]
    assert where[1 * 5 + 3].tolist() == [0, 0.5]  # row, column
    module = small()
    with torch.no_grad():
        for parameter in module.descriptor.parameters():
            parameter.zero_()
        module.descriptor.projection.weight[0, -2] = 1
        module.descriptor.projection.weight[1, -1] = 1
        out = module.descriptor(
            [torch.rand(2, 128, 3, 5), torch.rand(2, 256, 2, 3), torch.rand(2, 512, 1, 2)]
        )
    assert torch.equal(out[1, :, :2], where)


def test_every_image_and_no_filler_is_in_the_bank(trees, tmp_path, monkeypatch):
    """Rows that fill up a batch have index -1, as those of a second process may."""
    real = AnomalyDataset.__getitem__

    def with_filler(self, key):
        item = real(self, key)
        item.index[item.index == 3] = -1
        return item

    monkeypatch.setattr(AnomalyDataset, "__getitem__", with_filler)
    module, datamodule = small(), data(trees)
    untrained = copy.deepcopy(module)
    fit(module, datamodule, tmp_path, enable_checkpointing=False)
    images = torch.cat([datamodule.training_set()[i].image for i in range(7) if i != 3])
    np.testing.assert_allclose(
        module.bank, descriptors(untrained, images).mean(0), rtol=1e-4, atol=1e-5
    )


def test_scoring_before_a_fit_raises():
    with pytest.raises(NotFittedError, match="has no bank"):
        small()(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"features": "pre_relu"},
            r"layer 'features.4' does not end in the ReLU .* model.features to post_relu",
        ),
        ({"gamma_d": 2000}, "model.gamma_d 2000 leaves no dimension of 896 channels"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(UsageError, match=message):
        small(**options)


def test_too_few_centres_are_refused_before_an_image_is_read(trees, tmp_path):
    small(gamma_c=37).check_image_size(64, 64)
    with pytest.raises(
        UsageError, match=r"225 positions, and model.gamma_c 40 leaves 5 centres; 6 are needed"
    ):
        fit(small(gamma_c=40), data(trees), tmp_path)


def test_tiles_are_scored_side_by_side(trees, tmp_path):
    module, before = small(), torch.get_num_threads()
    fit(module, data(trees), tmp_path)
    torch.set_num_threads(3)
    try:
        assert_together_as_alone(module, 3)
    finally:
        torch.set_num_threads(before)


class TestCFA(LearnedContract):
    method = "CFA"
