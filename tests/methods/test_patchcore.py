import numpy as np
import pytest
import torch
from contract import FitOnlyContract, extending, training_images
from scipy.spatial.distance import cdist
from small_fits import trainer, tree_data

from lightning_ad.errors import UserError
from lightning_ad.methods import PatchCore
from lightning_ad.statistics.coreset import random_projection


def data(trees, **options):
    return tree_data(trees["mvtec"], **options)


def model(**options):
    torch.manual_seed(0)
    small = {
        "backbone": "resnet18",
        "weights": None,
        "layer_dimension": 40,
        "dimension": 32,
        "coreset_ratio": 0.2,
    }
    return PatchCore(**{**small, "projection": 8, **options})


def fit(module, datamodule, folder, **options):
    run = trainer(folder, **options)
    run.fit(module, datamodule=datamodule)
    return run


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 64)


def test_scores_are_distances_to_the_bank(trees, images, tmp_path):
    module = model(sigma=0.0)
    fit(module, data(trees), tmp_path)
    assert module.banks[0].bank.shape == (int(7 * 64 * 0.2), 32)
    queries = module._patches(images, 0)[0].detach()
    squared = np.stack(
        [cdist(q, module.banks[0].bank, "sqeuclidean").min(1) for q in queries.numpy()]
    )
    prediction = module.eval()(images)
    assert prediction.map.shape == (3, 64, 64)
    np.testing.assert_allclose(prediction.score.numpy(), squared.max(1), rtol=1e-4)
    centres = prediction.map[:, 3::8, 3::8].numpy()  # bilinear: near the grid's own values
    assert np.corrcoef(centres.ravel(), squared.ravel())[0, 1] > 0.99


def test_a_greedy_selection_of_before_is_extended_as_it_began():
    module = model(selection="greedy")
    assert module._starting_points() == 0
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    assert module._starting_points() == 0
    del checkpoint["random_first"]
    module.on_load_checkpoint(checkpoint)
    assert module._starting_points() is None


def test_switches(trees, images, tmp_path):
    base = model()
    fit(base, data(trees), tmp_path)
    scored = {}
    for name, options in {
        "squared": {},
        "plain": {"distance": "plain"},
        "three": {"neighbours": 3},
        "reweighted": {"distance": "plain", "reweight": 4},
    }.items():
        module = model(**options)
        module.load_state_dict(base.state_dict())
        scored[name] = module.eval()(images).score
    torch.testing.assert_close(scored["plain"].square(), scored["squared"])
    queries, bank = base._patches(images, 0)[0].detach().double(), base.banks[0].bank.double()
    distances = torch.cdist(queries, bank)
    three = distances.square().topk(3, largest=False).values.mean(2).amax(1)
    torch.testing.assert_close(scored["three"].double(), three, rtol=1e-4, atol=0)
    for i in range(3):  # equation 7, term by term
        nearest, star = distances[i].min(1)
        worst = nearest.argmax()
        around = torch.cdist(bank[star[worst]][None], bank)[0].topk(4, largest=False).indices
        terms = distances[i, worst, around].exp()
        expected = (1 - nearest[worst].exp() / terms.sum()) * nearest[worst]
        assert scored["reweighted"][i].item() == pytest.approx(expected.item(), rel=1e-4)


def test_concatenated_features_and_no_projection(trees, tmp_path):
    module = model(
        layer_dimension=None, dimension=None, projection=None, selection="greedy", coreset_ratio=1.0
    )
    fit(module, data(trees), tmp_path)
    assert module.banks[0].bank.shape == (7 * 64, 128 + 256)


def test_validation_sees_a_complete_bank_and_calibrates(trees, tmp_path):
    module = model()
    fit(module, data(trees, validation="holdout", validation_share=0.3), tmp_path)
    assert len(module.calibration) == 2
    assert module.calibration.good[0] > 0


def test_a_coreset_of_nothing_says_what_would_be_something(trees, tmp_path):
    with pytest.raises(UserError, match=r"model\.coreset_ratio to at least 0\.0022"):
        fit(model(coreset_ratio=1e-4), data(trees), tmp_path)


def test_a_tight_budget_merges_coresets(trees, images, tmp_path):
    whole, bytes_each = (
        model(coreset_ratio=0.1),
        4 * (8 + 4),
    )  # its projections, and what a selection keeps of each
    fit(whole, data(trees), tmp_path)
    third = 7 * 64 * bytes_each / 3 / 2**30
    tight = model(coreset_ratio=0.1, memory_gb=third)
    fit(tight, data(trees), tmp_path)
    bank, held = tight.banks[0], whole.banks[0]
    assert bank.bank.shape == held.bank.shape
    assert not torch.equal(bank.bank, held.bank)
    training = data(trees)
    training.setup()
    for row, (image, y, x) in zip(bank.bank, bank.origin.tolist(), strict=True):
        features = tight._patches(training.training_set()[image].image, 0)[0].view(8, 8, -1)
        torch.testing.assert_close(features[y, x], row)
    assert float(held.radius) < float(bank.radius) < 5 * float(held.radius)
    with pytest.raises(UserError, match=r"model\.coreset_ratio"):
        fit(model(coreset_ratio=0.9, memory_gb=third), data(trees), tmp_path)


def test_a_bank_is_extended_within_a_tight_budget(trees, tmp_path):
    first = model(coreset_ratio=0.1)
    run = fit(first, data(trees), tmp_path)
    run.save_checkpoint(tmp_path / "a.ckpt")
    room = 4 * (8 + 4) * (3 * 64 + len(first.banks[0].bank))
    grown = extending(model(coreset_ratio=0.1, memory_gb=room / 2**30), tmp_path / "a.ckpt")
    fit(grown, tree_data(trees["more"]), tmp_path)
    bank = grown.banks[0]
    assert len(bank.bank) == int(12 * 64 * 0.1)
    rows = {tuple(row) for row in bank.origin.tolist()}
    assert len(rows) == len(bank.bank)
    assert {image for image, _, _ in rows} & set(range(7))
    assert {image for image, _, _ in rows} & set(range(7, 12))


def test_a_member_of_an_ensemble_weighs_alike_with_and_without_the_image(trees, tmp_path):
    """Members whose features differ by a factor of 1,000 say the same of an image."""
    both = model(
        backbone=["squeezenet1_1"] * 2, weights=[None, None], layers=None, coreset_ratio=0.2
    )
    fit(both, data(trees), tmp_path)
    large, small = both.banks
    small.load_state_dict(large.state_dict())
    both.backbones[1].load_state_dict(both.backbones[0].state_dict())
    images = training_images(data(trees))
    alone = both.leave_one_out(images, torch.arange(len(images)))
    factor = 1000.0
    small.bank, small.scale = small.bank * factor, small.scale * factor
    before = both._patches
    both._patches = lambda image, member: (
        before(image, member)[0] * factor**member,
        before(image, member)[1],
    )
    torch.testing.assert_close(
        both.leave_one_out(images, torch.arange(len(images))), alone, rtol=1e-3, atol=1e-6
    )


def test_an_image_has_itself_for_no_neighbour(trees, tmp_path):
    """Of a bank with few rows of other images, those of the image are never taken in."""
    module = model(coreset_ratio=0.05, neighbours=5)
    fit(module, data(trees), tmp_path)
    bank = module.banks[0]
    bank.origin[:, 0] = 0
    bank.origin[-2:, 0] = 1
    queries = bank.bank[:4]
    squared, rows = bank.search(queries, 5, without=range(1))
    assert set(rows.flatten().tolist()) == {len(bank.bank) - 2, len(bank.bank) - 1}
    expected = torch.cdist(queries.double(), bank.bank[-2:].double()).square().sort(1).values
    torch.testing.assert_close(squared.double(), expected, rtol=1e-4, atol=1e-7)
    bank.origin[:, 0] = 0
    with pytest.raises(UserError, match="all patches of the bank are of one training image"):
        bank.search(queries, 5, without=range(1))


class TestPatchCore(FitOnlyContract):
    method = "PatchCore"
    options = {"layer_dimension": 40, "dimension": 32, "coreset_ratio": 0.2, "projection": 8}
    selects = True

    def assert_extended(self, first, grown, whole, trees):
        """No patch is farther from the bank than twice the radius of a whole fit and the first."""
        bank, all_of_one = grown.banks[0], whole.banks[0]
        assert len(bank.bank) == len(all_of_one.bank)
        assert {*bank.origin[:, 0].tolist()} > {*range(7, 12)}
        images = training_images(tree_data(trees["all"]))
        matrix = random_projection(32, 8, torch.Generator().manual_seed(0)).double()
        patches = whole._patches(images, 0)[0].flatten(0, 1).double() @ matrix
        radius = torch.cdist(patches, bank.bank.double() @ matrix).min(1).values.max()
        assert radius <= 2 * all_of_one.radius + first.banks[0].radius
        assert radius <= bank.radius * (1 + 1e-5)
        found = torch.cdist(patches, all_of_one.bank.double() @ matrix).min(1).values.max()
        assert all_of_one.radius.item() == pytest.approx(found.item(), rel=1e-4)
