"""What masks say before a run: doubtful ones, and what the crop takes."""

import warnings

import numpy as np
import pytest
from PIL import Image
from runs import typed
from trees import mvtec_tree

from lightning_ad.data.geometry import Geometry
from lightning_ad.data.mask_survey import MaskSurvey
from lightning_ad.data.sample import Sample


def sample(folder, name, height, width, defect, mask_size=None):
    """An image, and its mask, defective in the rows and columns `defect`."""
    mask = np.zeros((height, width), np.uint8)
    mask[defect] = 255
    picture = Image.fromarray(mask)
    Image.new("RGB", (width, height)).save(folder / f"{name}.png")
    if mask_size:
        picture = picture.resize(mask_size, Image.Resampling.NEAREST)
    picture.save(folder / f"{name}_mask.png")
    return Sample(str(folder / f"{name}.png"), "test", "end", str(folder / f"{name}_mask.png"))


def test_what_the_crop_takes_is_counted(tmp_path):
    rows = slice(20, 40)
    samples = [
        sample(tmp_path, "off", 64, 256, (rows, slice(220, 250))),
        sample(tmp_path, "half", 64, 256, (rows, slice(140, 180))),
        sample(tmp_path, "kept", 64, 256, (rows, slice(110, 120))),
        Sample(str(tmp_path / "good.png"), "test"),
        Sample(str(tmp_path / "off.png"), "test", "end", str(tmp_path / "gone.png")),
    ]
    survey = MaskSurvey.of(samples, Geometry.of(64, 64))
    assert survey.cut_off == [samples[0].path]
    lost = survey.protocol
    assert lost["share"] == pytest.approx((30 + 20) / (30 + 40 + 10))
    assert {**lost, "share": None} == {"images": 3, "wholly": 1, "in_part": 1, "share": None}
    with pytest.warns(UserWarning, match=r"1 of 3 .*off\.png first.* 1 a part, together 62\.5%"):
        survey.warn()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MaskSurvey.of(samples, Geometry.of(64, None)).warn()
        MaskSurvey.of(samples[2:], Geometry.of(64, 64)).warn()
    assert MaskSurvey.of(samples, Geometry.of(64, None)).protocol is None


def test_masks_that_are_mostly_defective_or_of_another_size_are_told(tmp_path):
    samples = [
        sample(tmp_path, "all", 40, 40, slice(None)),
        sample(tmp_path, "most", 40, 40, slice(5, 40)),
        sample(tmp_path, "some", 40, 40, slice(10, 20), mask_size=(20, 20)),
    ]
    survey = MaskSurvey.of(samples, Geometry.of(64, None))
    assert survey.mostly_defective == [f"{samples[0].path} (100%)", f"{samples[1].path} (88%)"]
    assert survey.scaled == [samples[2].path]
    with pytest.warns(UserWarning, match=r"2 of 3 masks .*all\.png \(100%\).*mask_reading dark"):
        survey.warn()
    with pytest.warns(UserWarning, match=r"1 of 3 masks have another size .*some\.png first"):
        survey.warn()


def test_the_command_finds_doubtful_masks_and_thin_images(tmp_path, capsys):
    root = mvtec_tree(tmp_path / "mvtec")
    masks = root / "bottle/ground_truth/broken"
    Image.new("L", (48, 40), 255).save(masks / "001_mask.png")
    Image.open(masks / "002_mask.png").resize((24, 20)).save(masks / "002_mask.png")
    Image.new("1", (1, 190_000)).save(root / "bottle/train/good/thin.png")
    assert typed("datasets", "check", str(root), "--layout", "mvtec") == 1
    printed = capsys.readouterr().out
    assert "1 images are defective on more than 50% of their pixels by their mask" in printed
    assert "broken/001.png (100%)" in printed
    assert "1 masks are resized to the size of their image" in printed
    assert "thin.png: an image of 1 x 190000 px becomes 256 x 48640000 px" in printed
    assert "1 images cannot be used" in printed
