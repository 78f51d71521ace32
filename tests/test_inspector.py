"""A finished run that inspects images gives what its test gave, wherever the run was moved to."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from runs import flags
from scipy import ndimage

import lightning_ad as ad
from lightning_ad.commands.train import train
from lightning_ad.data.geometry import Geometry
from lightning_ad.data.reading import as_image, read_image
from lightning_ad.inspector import FinishedRun, Inspector, Result
from lightning_ad.reporting.maps import read_map
from lightning_ad.reporting.tables import read_predictions
from lightning_ad.system.checkpoints import write_whole

HELD_OUT = ["--data.validation", "holdout", "--reject", "0.5"]


@pytest.fixture(scope="module")
def run(trees, tmp_path_factory):
    return train([*flags("PatchCore", "mvtec", trees, tmp_path_factory.mktemp("runs")), *HELD_OUT])


def assert_as_tested(inspector, run):
    """Scores, p-values, verdicts and maps of the test images, up to rounding."""
    for row in read_predictions(run.predictions):
        found = inspector(row.path)
        assert found.score == pytest.approx(row.score, rel=1e-4)
        assert found.p_value == row.p_value
        assert found.anomalous == row.anomalous
        tested = torch.as_tensor(read_map(run.path / row.map_path))
        size = list(tested.shape)
        expected = Geometry.of(size, None).restore(tested, *found.map.shape).numpy()
        tolerance = 1e-3 * float(tested.max() - tested.min()) + 1e-6
        np.testing.assert_allclose(found.map, expected, rtol=0, atol=tolerance)


def test_an_image_gets_what_the_test_gave_it(run):
    inspector = ad.load(run.path)
    assert_as_tested(inspector, run)
    rows = read_predictions(run.predictions)
    together = inspector([row.path for row in rows])
    assert [found.score for found in together] == pytest.approx(
        [row.score for row in rows], rel=1e-4
    )


METHODS = {
    "PaDiM": [],
    "MahalanobisAD": ["--model.map", "false", "--threshold", "chi2"],
    "DRAEM": ["--trainer.max_epochs", "1", "--model.optimizer", "AdamW"],
    "PFM": ["--trainer.max_epochs", "1", "--trainer.precision", "bf16-mixed"],
    "SPADE": ["--data.image_size", "96", "--data.tile", "64", "--data.tile_overlap", "32"],
}


@pytest.mark.parametrize("method", METHODS)
def test_so_do_other_methods_tiles_and_precisions(method, trees, tmp_path):
    config = None
    if method == "MahalanobisAD":
        config = "configs/mahalanobis.yaml"
    finished = train([*flags(method, "mvtec", trees, tmp_path, config), *METHODS[method]])
    assert_as_tested(ad.load(finished.checkpoint), finished)


def test_a_run_needs_neither_its_place_nor_its_data_nor_its_weights_file(trees, tmp_path):
    from torchvision.models import squeezenet1_1

    weights = tmp_path / "squeezenet.pth"
    write_whole(squeezenet1_1().state_dict(), weights)
    shutil.copytree(trees["mvtec"], tmp_path / "data")
    moved_trees = {**trees, "mvtec": tmp_path / "data"}
    args = [*flags("PatchCore", "mvtec", moved_trees, tmp_path), *HELD_OUT]
    folder = train([*args, "--model.weights", str(weights)]).path
    image = next((tmp_path / "data/bottle/test/good").glob("*.png"))
    array = np.asarray(Image.open(image).convert("RGB"))
    before = ad.load(folder)(array)
    shutil.move(folder, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "data")
    weights.unlink()
    found = ad.load(tmp_path / "elsewhere")(array)
    assert (found.score, found.p_value, found.anomalous) == (
        before.score,
        before.p_value,
        before.anomalous,
    )
    np.testing.assert_array_equal(found.map, before.map)
    module = ad.PatchCore.load_from_checkpoint(tmp_path / "elsewhere/checkpoints/last.ckpt")
    assert bool(module.fitted)


def test_every_form_of_an_image_gives_the_same(run):
    inspector = ad.load(run.path)
    path = read_predictions(run.predictions)[0].path
    picture = Image.open(path).convert("RGB")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)
    expected = inspector(path)
    for image in (picture, array, tensor, array.astype(np.float64) / 255):
        assert inspector(image).score == pytest.approx(expected.score, rel=1e-6)
    grey = array[:, :, 0]
    three = np.repeat(grey[:, :, None], 3, axis=2)
    assert inspector(grey).score == pytest.approx(inspector(three).score, rel=1e-6)


@pytest.mark.parametrize(("method", "kept"), [(3.5, None), ("quantile", 0.5)])
def test_a_share_is_that_of_the_threshold(method, kept, run):
    module = ad.load(run.path).module
    assert Inspector(module, Geometry.of(64, None), method=method, reject=0.5).reject == kept


@pytest.mark.parametrize("value", ["x", float("nan")])
def test_a_threshold_is_a_number(value, run):
    inspector = ad.load(run.path)
    inspector.threshold = 2.0
    with pytest.raises(ad.UsageError, match="threshold: expected a number or None, got"):
        inspector.threshold = value
    with pytest.raises(ad.UsageError, match="reject: expected a number or None, got"):
        inspector.reject = value
    assert inspector.threshold == 2.0


def test_the_threshold_can_be_set_by_a_score_or_by_a_share(run):
    inspector = ad.load(run.path)
    path = read_predictions(run.predictions)[0].path
    score = inspector(path).score
    inspector.threshold = score - 1e-6
    assert inspector(path).anomalous is True
    inspector.threshold = score
    assert inspector(path).anomalous is False
    assert inspector(path).mask is None
    inspector.threshold = None
    assert inspector(path).anomalous is None
    inspector.reject = 0.5
    assert "50 %" in inspector.promise
    with pytest.raises(ad.UsageError, match="held-out"):
        inspector.reject = 0.01


def with_settings(run, **settings):
    """The inspector of a run that differs in some settings from a given one."""
    finished = FinishedRun.read(run.path)
    data = {**finished.config["data"], **settings.pop("data", {})}
    return Inspector.of(replace(finished, config={**finished.config, **settings, "data": data}))


@pytest.mark.parametrize("method", [3.5, "quantile", "conformal"])
def test_a_share_is_kept_by_held_out_images_however_the_run_chose(run, method):
    share = None if method == 3.5 else 0.5
    inspector = with_settings(run, threshold=method, reject=share)
    promise = inspector.promise
    inspector.reject = 0.6
    assert inspector.reject == 0.6
    assert inspector.promise != promise
    assert inspector.promise.startswith("at most 60 %")
    assert inspector.threshold == float(inspector.module.calibration.good.max())
    inspector.threshold = 3.5
    assert inspector.reject is None
    inspector.reject = None
    assert inspector.threshold is None  # a run with so few held-out images has none


@pytest.fixture(scope="module")
def ignoring(trees, tmp_path_factory):
    """A run that ignores the upper left of its images, and the file that says so."""
    folder = tmp_path_factory.mktemp("ignoring")
    ignored = np.zeros((40, 48), np.uint8)
    ignored[:20, :24] = 255
    Image.fromarray(ignored).save(folder / "ignored.png")
    args = [*flags("PatchCore", "mvtec", trees, folder), *HELD_OUT]
    return train([*args, "--data.ignore", str(folder / "ignored.png")]), folder / "ignored.png"


def test_the_region_that_a_run_ignores_is_ignored(ignoring):
    run, file = ignoring
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The run ignored")
        inspector = ad.load(run.path)
    assert_as_tested(inspector, run)
    path = read_predictions(run.predictions)[0].path
    ignored = np.asarray(Image.open(file)) > 0
    array = np.asarray(Image.open(path).convert("RGB")).copy()
    array[ignored] = 255 - array[ignored]
    expected = inspector(path)
    for found in (
        inspector(array),
        inspector([array])[0],
        inspector(array, np.zeros_like(ignored)),
    ):
        assert found.score == expected.score
    more = ~ignored & (np.arange(48) < 30)
    changed = array.copy()
    changed[more] = 255 - changed[more]
    assert inspector(changed, more).score == inspector(array, more).score
    with pytest.raises(ad.DataError, match=r"they must be of one size"):
        inspector(array[1:])


def test_regions_that_are_not_known_leave_no_promise(ignoring, tmp_path):
    run, _ = ignoring
    path = read_predictions(run.predictions)[0].path
    for data, named in (
        ({"ignore": str(tmp_path)}, "a folder with one for each image"),
        ({"ignore": "gone.png"}, r"data\.ignore gone\.png, which is not there"),
        ({"ignore": None, "ignore_value": 128}, r"data\.ignore_value 128"),
    ):
        with pytest.warns(UserWarning, match=named) as warned:
            inspector = with_settings(run, data=data)
        assert len(warned) == 1
        found = inspector(path)
        assert (found.p_value, found.anomalous, found.mask) == (None, None, None)
        with pytest.raises(ad.UsageError, match="ignored regions that are not known here"):
            inspector.reject = 0.5
        inspector.threshold = found.score - 1e-6
        assert inspector(path).anomalous is True
    with pytest.warns(UserWarning, match="not known here"):
        numbered = with_settings(run, data={"ignore": "gone.png"}, threshold=3.5, reject=None)
    assert numbered.threshold == 3.5


def test_what_is_ignored_does_not_matter(run):
    inspector = ad.load(run.path)
    row = next(row for row in read_predictions(run.predictions) if row.label)
    array = np.asarray(Image.open(row.path).convert("RGB")).copy()
    ignore = np.zeros(array.shape[:2], dtype=bool)
    ignore[: len(array) // 2] = True
    found = inspector(array, ignore)
    array[ignore] = 255 - array[ignore]
    changed = inspector(array, ignore)
    assert changed.score == found.score
    np.testing.assert_array_equal(changed.map, found.map)
    assert inspector(array).score != found.score
    with pytest.raises(ad.DataError, match="expected ignore to have the size of its image"):
        inspector(array, ignore[1:])


def test_a_map_comes_back_in_the_geometry_of_its_image():
    geometry = Geometry.of(256, 224)
    map = torch.rand(224, 224)
    restored = geometry.restore(map, 256, 256)
    assert torch.equal(restored[16:240, 16:240], map)
    assert int(restored.isnan().sum()) == 256 * 256 - 224 * 224
    wide = Geometry.of([64, 48], None)
    map = torch.rand(64, 48)
    scipy = ndimage.zoom(map.numpy(), (2, 3), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(wide.restore(map, 128, 144).numpy(), scipy, atol=1e-5)


def test_regions_are_those_of_the_mask():
    map = np.zeros((6, 8), np.float32)
    map[1:3, 1:4] = 2
    map[3, 4] = 3
    map[5, 7] = 1
    result = Result(3.0, None, True, map, map > 0.5)
    assert result.regions == [((1, 1, 5, 4), 7, 3.0), ((7, 5, 8, 6), 1, 1.0)]
    assert Result(3.0, None, True, map, None).regions == []


def test_pictures_are_turned_and_sixteen_bits_are_scaled_as_files_are(tmp_path):
    deep = Image.fromarray(np.arange(0, 60000, 1000, dtype=np.uint16).reshape(6, 10))
    deep.save(tmp_path / "deep.png")
    assert torch.equal(as_image(deep), read_image(str(tmp_path / "deep.png")))
    exif = Image.Exif()
    exif[274] = 6
    turned = Image.fromarray(np.arange(180, dtype=np.uint8).reshape(6, 10, 3))
    turned.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as file:
        assert torch.equal(as_image(file), read_image(str(tmp_path / "turned.png")))
    assert as_image(tmp_path / "turned.png").shape == (3, 10, 6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"expected an image .* got ndarray \[4, 4, 2\]"),
        (torch.zeros(4, 4, 3), r"expected an image .* got Tensor \[4, 4, 3\]"),
        (np.full((4, 4), 3.0), r"floats from 3 to 3; expected values in \[0, 1\]"),
        ("gone.png", r"gone\.png"),
        (".", r"is a folder; expected the image, a file"),
        (__file__, r"it is no image in a known format"),
        (np.zeros((0, 4, 3), np.uint8), r"expected an image .* got ndarray \[0, 4, 3\]"),
        (np.zeros((4, 4), np.int64), r"uint8, uint16 or floats in \[0, 1\], got int64"),
        (torch.zeros(4, 4, dtype=torch.bool), r"uint8, uint16 or floats in \[0, 1\], got bool"),
        (np.zeros((4, 4), complex), r"got complex128"),
        (5, r"a path, a PIL image, an array or a tensor; got int"),
        (None, r"got NoneType"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ad.DataError, match=message):
        as_image(image)


def test_a_run_of_a_method_that_was_not_imported_is_refused(run, tmp_path):
    state = torch.load(run.checkpoint, weights_only=True)
    text = state["lightning_ad_config"]
    named = text.replace("lightning_ad.methods.PatchCore", "strangers.Method")
    write_whole({**state, "lightning_ad_config": named}, tmp_path / "last.ckpt")
    with pytest.raises(ad.UsageError, match=r"strangers has not been imported: import it first"):
        ad.load(tmp_path / "last.ckpt")
    named = text.replace("lightning_ad.methods.PatchCore", "lightning_ad.errors.UserError")
    write_whole({**state, "lightning_ad_config": named}, tmp_path / "last.ckpt")
    with pytest.raises(ad.WeightsError, match="is not an AnomalyModule"):
        ad.load(tmp_path / "last.ckpt")
