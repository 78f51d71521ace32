import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract import FitOnlyContract, extending, fitted, training_images, tree_data
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis

from lightning_ad.errors import UsageError, WeightsError
from lightning_ad.methods.padim import PaDiM


def model(**options):
    torch.manual_seed(0)  # of the random backbone
    return PaDiM(
        **{"backbone": "resnet18", "weights": None, "dimension": 24, "sigma": 1.0, **options}
    )


def embedded(module, images):
    """Features in float64 [N, h, w, D]: deeper maps replicated, channels layer after layer."""
    with torch.no_grad():
        maps = module.backbone(images)
    whole = torch.cat([F.interpolate(m, maps[0].shape[2:], mode="nearest") for m in maps], 1)
    return whole[:, module.channels].permute(0, 2, 3, 1).double().numpy()


def brute_force(module, training, images, epsilon=0.01, sigma=1.0):
    """Maps and scores in float64, position by position."""
    train, test = embedded(module, training), embedded(module, images)
    grid = np.empty(test.shape[:3])
    for row, column in np.ndindex(grid.shape[1:]):
        values = train[:, row, column]
        inverse = np.linalg.inv(np.cov(values.T) + epsilon * np.eye(values.shape[1]))
        grid[:, row, column] = [
            mahalanobis(v, values.mean(0), inverse) for v in test[:, row, column]
        ]
    maps = F.interpolate(torch.from_numpy(grid)[:, None], images.shape[2:], mode="bilinear")[:, 0]
    maps = np.stack([gaussian_filter(m, sigma) for m in maps.numpy()])
    return maps, maps.max((1, 2))


@pytest.fixture(scope="module")
def fit(trees, tmp_path_factory):
    """A fitted module, the trainer, and its training images."""
    data = tree_data(trees["mvtec"])
    return *fitted(model(), data, tmp_path_factory.mktemp("padim")), training_images(data)


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 64)


def test_maps_and_scores_are_those_of_a_brute_force(fit, images):
    module, _, training = fit
    maps, scores = brute_force(module, training, images)
    prediction = module.eval()(images)
    np.testing.assert_allclose(prediction.map, maps, rtol=1e-4)
    np.testing.assert_allclose(prediction.score, scores, rtol=1e-4)


def test_all_channels_and_a_large_epsilon(trees, tmp_path):
    data = tree_data(trees["mvtec"], image_size=32)
    module, _ = fitted(model(dimension=None, epsilon=1.0), data, tmp_path)
    assert module.channels.tolist() == [*range(448)]
    few = torch.rand(1, 3, 32, 32)
    maps, _ = brute_force(module, training_images(data), few, epsilon=1.0)
    np.testing.assert_allclose(module.eval()(few).map, maps, rtol=1e-4)


def test_channels_can_be_listed():
    listed = model(dimension=[447, 3, 70])
    assert listed.channels.tolist() == [3, 70, 447]
    assert [chosen.channels.tolist() for chosen in listed._chosen_channels()] == [[255], [6], [3]]


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ([3, 448], "lists channel 448; .* have channels 0 to 447"),
        ([-1], "lists channel -1"),
        ([], "an empty list"),
        ([5, 7, 5], "a channel twice"),
        (449, "must be from 1 to 448"),
    ],
)
def test_channels_that_are_not_there(dimension, message, fit):
    with pytest.raises(UsageError, match=rf"model\.dimension.*{message}"):
        fit[0]._choose_channels(dimension, seed=0)


@pytest.mark.parametrize(("dimension", "size"), [(24, 72), (1, 64), (2, 40)])
def test_sides_that_do_not_divide_and_layers_without_channels(dimension, size, trees, tmp_path):
    """At 72 px the grids are 18, 9 and 5 wide."""
    data = tree_data(trees["mvtec"], image_size=size)
    module, _ = fitted(model(dimension=dimension), data, tmp_path)
    few = torch.rand(2, 3, size, size)
    maps, scores = brute_force(module, training_images(data), few)
    prediction = module.eval()(few)
    np.testing.assert_allclose(prediction.map, maps, rtol=1e-4)
    np.testing.assert_allclose(prediction.score, scores, rtol=1e-4)


def test_leaving_an_image_out_is_a_fit_without_it(fit):
    module, _, training = fit
    found = module.eval().leave_one_out(training, torch.arange(7))
    for row in range(7):
        rest = torch.cat([training[:row], training[row + 1 :]])
        _, (wanted,) = brute_force(module, rest, training[row : row + 1])
        assert float(found[row]) == pytest.approx(wanted, rel=1e-3)
    assert (found > 2 * module(training).score).all()  # the test can tell


def test_channels_come_from_the_seed_and_stay_in_the_checkpoint(fit, images, tmp_path):
    module, run, _ = fit
    assert len({*module.channels.tolist()}) == 24
    assert torch.equal(module.channels, model().channels)
    assert not torch.equal(module.channels, model(seed=1).channels)
    run.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    other = model(seed=1)
    other._embed(images)
    other.load_state_dict(state)
    assert torch.equal(other.eval()(images).map, module.eval()(images).map)


def test_loading_forgets_what_was_prepared_for_scoring(fit, images, trees, tmp_path):
    module, _, _ = fit
    other, _ = fitted(model(epsilon=1.0), tree_data(trees["mvtec"]), tmp_path)
    before = other.eval()(images).score
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(images).score, module.eval()(images).score)
    assert not torch.equal(other(images).score, before)


def test_half_storage_takes_half_the_room(fit, images, trees, tmp_path):
    module, _, _ = fit
    half, _ = fitted(model(storage="float16"), tree_data(trees["mvtec"]), tmp_path)
    assert half.factors.dtype == torch.float16
    assert half.factors.shape == module.factors.shape
    torch.testing.assert_close(
        half.eval()(images).score, module.eval()(images).score, rtol=5e-3, atol=0
    )
    fresh = model()
    fresh.load_state_dict(half.state_dict())
    assert torch.equal(fresh.eval()(images).score, half(images).score)


def test_float32_moments_are_near_float64(fit, images, trees, tmp_path):
    single, _ = fitted(model(accumulator="float32"), tree_data(trees["mvtec"]), tmp_path)
    torch.testing.assert_close(
        single.eval()(images).score, fit[0].eval()(images).score, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    ("options", "tolerance"), [({"accumulator": "float32"}, 1e-4), ({"storage": "float16"}, 5e-3)]
)
def test_an_incremental_fit_in_fewer_bits(options, tolerance, fit, images, trees, tmp_path):
    first, run = fitted(model(**options), tree_data(trees["mvtec"]), tmp_path)
    run.save_checkpoint(tmp_path / "a.ckpt")
    extended = extending(model(**options), tmp_path / "a.ckpt")
    fitted(extended, tree_data(trees["more"]), tmp_path)
    whole, _ = fitted(model(), tree_data(trees["all"]), tmp_path)
    wanted = whole.eval()(images).score
    torch.testing.assert_close(extended.eval()(images).score, wanted, rtol=tolerance, atol=0)
    # The test can tell.
    assert not torch.allclose(first.eval()(images).score, wanted, rtol=tolerance, atol=0)


def test_a_checkpoint_of_an_earlier_version_is_refused(fit, tmp_path):
    _, run, _ = fit
    run.save_checkpoint(tmp_path / "a.ckpt")
    earlier = torch.load(tmp_path / "a.ckpt", weights_only=True)
    earlier["layout"] -= 1
    torch.save(earlier, tmp_path / "b.ckpt")
    with pytest.raises(WeightsError, match="earlier version of lightning_ad; train again"):
        PaDiM.load_from_checkpoint(tmp_path / "b.ckpt", weights_only=True)
    with pytest.raises(WeightsError, match="earlier version"):
        extending(model(), tmp_path / "b.ckpt")


def test_an_incremental_fit_takes_images_of_the_same_size(fit, trees, tmp_path):
    _, run, _ = fit
    run.save_checkpoint(tmp_path / "a.ckpt")
    extended = extending(model(), tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match=r"a grid of 16x16, .* have 8x8: set data\.image_size"):
        fitted(extended, tree_data(trees["more"], image_size=32), tmp_path)


def test_images_of_another_size_are_refused(fit):
    with pytest.raises(UsageError, match=r"a grid of 16x16, .* have 8x24"):
        fit[0](torch.rand(1, 3, 32, 96))


class TestPaDiM(FitOnlyContract):
    method = "PaDiM"
