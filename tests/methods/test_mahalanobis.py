from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contract import FitOnlyContract, fitted, training_images, tree_data
from scipy.spatial.distance import mahalanobis
from scipy.stats import chi2
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from lightning_ad.errors import UsageError, UserError
from lightning_ad.methods.mahalanobis import MahalanobisAD, chi_square_radius
from lightning_ad.reporting.provenance import weights_hash

B4 = ["bn1", *(f"blocks.{stage}" for stage in range(7)), "bn2"]
WIDTHS = [64, 64, 128, 256, 512]


def model(**options):
    torch.manual_seed(0)  # of the random backbone
    return MahalanobisAD(**{"backbone": "resnet18", "weights": None, **options})


def averages(module, images):
    with torch.no_grad():
        return [m.double().mean((2, 3)).numpy() for m in module.backbone(images)]


def brute_force(training, images):
    """The distances [levels, N] of scikit-learn's Gaussians, one for each level."""
    found = []
    for train, values in zip(training, images, strict=True):
        gaussian = LedoitWolf().fit(train)
        inverse = np.linalg.inv(gaussian.covariance_)
        found.append([mahalanobis(v, gaussian.location_, inverse) for v in values])
    return np.array(found)


@pytest.fixture(scope="module")
def fit(trees, tmp_path_factory):
    """A fitted module, the trainer, and its training images."""
    data = tree_data(trees["mvtec"])
    return *fitted(model(), data, tmp_path_factory.mktemp("mahalanobis")), training_images(data)


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 64)


def test_scores_are_those_of_scikit_learn_and_scipy(fit, images):
    module, _, training = fit
    wanted = brute_force(averages(module, training), averages(module, images))
    prediction = module.eval()(images)
    np.testing.assert_allclose(prediction.score, wanted.mean(0), rtol=1e-5)
    np.testing.assert_allclose(torch.stack([*module.distances(images).values()]), wanted, rtol=1e-5)
    assert prediction.map.shape == (3, 64, 64)
    assert torch.equal(prediction.map.amin((1, 2)), prediction.score)
    assert torch.equal(prediction.map.amax((1, 2)), prediction.score)


def test_the_sum_of_the_levels(fit, images):
    module, _, _ = fit
    total = model(combine="sum")
    total.load_state_dict(module.state_dict())
    torch.testing.assert_close(total.eval()(images).score, 5 * module.eval()(images).score)


def test_leaving_an_image_out_is_a_fit_without_it(fit):
    module, _, training = fit
    found = module.eval().leave_one_out(training, torch.arange(7))
    values = averages(module, training)
    for row in range(7):
        rest = [np.delete(level, row, 0) for level in values]
        wanted = brute_force(rest, [level[row : row + 1] for level in values]).mean()
        assert float(found[row]) == pytest.approx(wanted, rel=1e-4)


def test_a_map_of_local_distances(fit, images):
    module, _, training = fit
    local = model(map=True, sigma=0.0)
    local.load_state_dict(module.state_dict())
    prediction = local.eval()(images)
    assert torch.equal(prediction.score, module.eval()(images).score)
    stacked = []
    for train, level in zip(averages(module, training), module.backbone(images), strict=True):
        gaussian = LedoitWolf().fit(train)
        values = level.permute(0, 2, 3, 1).flatten(0, 2).double().numpy() - gaussian.location_
        distances = np.sqrt(
            np.einsum("nd,de,ne->n", values, np.linalg.inv(gaussian.covariance_), values)
        )
        grid = torch.from_numpy(distances).view(3, 1, *level.shape[2:])
        stacked.append(torch.nn.functional.interpolate(grid, (64, 64), mode="bilinear")[:, 0])
    torch.testing.assert_close(
        prediction.map.double(), torch.stack(stacked).mean(0), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("kind", ["pca", "npca"])
def test_components(kind, trees, images, tmp_path):
    module, _ = fitted(model(components=kind, variance=0.8), tree_data(trees["mvtec"]), tmp_path)
    kept = [gaussian.dimension for gaussian in module._gaussians()]
    assert all(1 <= k <= 7 for k in kept)  # of 7 images
    training = training_images(tree_data(trees["mvtec"]))
    values = averages(module, training)[-1]
    pca = PCA().fit(values)
    last = int((pca.explained_variance_ratio_.cumsum() > 0.8).argmax())
    components = pca.components_[: last + 1]
    if kind == "npca":
        components = pca.components_[last - 1 :]
    theirs = LedoitWolf().fit(values @ components.T)
    assert float(module._gaussians()[-1].shrinkage) == pytest.approx(theirs.shrinkage_, rel=1e-4)
    assert module.thresholds(0.9)["layer4"] == pytest.approx(np.sqrt(chi2.ppf(0.9, kept[-1])))
    assert module.eval()(images).score.isfinite().all()
    assert module.leave_one_out(training, torch.arange(7)).isfinite().all()


def test_components_of_moments_alone_and_those_of_before(fit, images, tmp_path):
    _, _, training = fit
    by_moments = model(components="npca", variance=0.8, component_fit="moments")
    released = model(components="npca", variance=0.8)
    for module in (by_moments, released):
        module.begin()
        module.observe(training[:3], torch.arange(3))
        module.observe(training[3:], torch.arange(3, len(training)))
        module.complete()
        module.fitted.fill_(True)
        module.eval()
    assert [g.dimension for g in by_moments._gaussians()] < [
        g.dimension for g in released._gaussians()
    ]
    before = by_moments.state_dict()
    assert "vectors" not in before
    earlier = model(components="npca", variance=0.8).eval()
    earlier.load_state_dict(before)
    assert torch.equal(earlier(images).score, by_moments(images).score)
    assert weights_hash(earlier.state_dict()) == weights_hash(before)
    score = earlier(images).score
    earlier.load_state_dict(released.state_dict())
    assert torch.equal(earlier(images).score, released(images).score)
    assert not torch.equal(earlier(images).score, score)


def test_vectors_are_kept_by_the_order_of_the_images(fit, images):
    _, _, training = fit
    orders = [[0, 1, 2, 3, 4, 5, 6], [4, 1, 6, 0, 2, 5, 3]]
    vectors = []
    scores = []
    module = model(components="npca", variance=0.8).eval()
    for order in orders:
        module.begin()
        module.observe(training[order[:2]], torch.tensor(order[:2]))
        (piece,) = module.partial_state(0)
        module.begin()
        module.restore(piece)
        module.observe(training[order[2:]], torch.tensor(order[2:]))
        module.complete()
        module.fitted.fill_(True)
        vectors.append(module.vectors)
        scores.append(module(images).score)
    assert torch.equal(*vectors)
    torch.testing.assert_close(*scores)


def test_thresholds_are_chi_square_quantiles(fit):
    found = fit[0].thresholds()
    assert [*found] == ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    np.testing.assert_allclose([*found.values()], np.sqrt(chi2.ppf(0.9973, WIDTHS)))


@pytest.mark.parametrize(("dimension", "probability"), [(1, 0.6827), (48, 0.9973), (1792, 0.9973)])
def test_chi_square_radius(dimension, probability):
    expected = np.sqrt(chi2.ppf(probability, dimension))
    assert chi_square_radius(dimension, probability) == pytest.approx(expected, rel=1e-9)


def test_moments_in_the_checkpoint_are_float64(fit, images, tmp_path):
    module, run, _ = fit
    run.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert {state[name].dtype for name in ("means", "scatters", "thirds", "fourths")} == {
        torch.float64
    }
    assert len(state["scatters"]) == sum(width * (width + 1) // 2 for width in WIDTHS)
    fresh = MahalanobisAD.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    torch.testing.assert_close(
        fresh.eval()(images).score, module.eval()(images).score, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("backbone", "levels"),
    [
        ("timm/tf_efficientnet_b4", B4),
        ("efficientnet_b0", [f"features.{block}" for block in range(9)]),
        ("timm/resnet18", ["maxpool", "layer1", "layer2", "layer3", "layer4"]),
        ("squeezenet1_1", [f"features.{block}" for block in (0, 3, 4, 6, 7, 9, 10, 11, 12)]),
    ],
)
def test_levels_of_a_network(backbone, levels):
    assert model(backbone=backbone).backbone.layers == levels


def test_a_network_without_the_usual_names():
    with pytest.raises(
        UsageError, match=r"regnetx_002 has none .* it has stem, s1, .*model\.layers"
    ):
        model(backbone="timm/regnetx_002")


def test_fewer_images_than_dimensions_want_shrinkage(trees, tmp_path):
    with pytest.raises(
        UserError, match=r"covariance of 7 images has no inverse: .*model\.shrinkage"
    ):
        fitted(model(shrinkage="none"), tree_data(trees["mvtec"]), tmp_path)


def test_shrinkage_that_is_there_is_not_advised(monkeypatch):
    def fail(moments):
        raise torch.linalg.LinAlgError

    one = model()
    monkeypatch.setattr(one, "_fit_levels", fail)
    with pytest.raises(UserError, match=r"take more images \(3 different ones at least\)$"):
        one._fit([SimpleNamespace(count=2)])


class TestMahalanobisAD(FitOnlyContract):
    method = "MahalanobisAD"
