from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from lightning_ad.data.sample import Batch, Prediction
from lightning_ad.evaluation.thresholds import Calibration
from lightning_ad.reporting.maps import read_map
from lightning_ad.reporting.recorder import TestRecorder, usable_calibration
from lightning_ad.system.run_folder import RunFolder

SIZE = 12
TRAINER = SimpleNamespace(
    strategy=SimpleNamespace(broadcast=lambda path: path), is_global_zero=True
)


def calibration(view=""):
    scores = torch.linspace(0, 1, 19)
    return Calibration(scores, scores, torch.empty(0), view=view)


def module(calibration=None, preprocessing="resize 8"):
    return SimpleNamespace(
        data=SimpleNamespace(preprocessing=preprocessing),
        calibration=calibration or Calibration.empty(),
        chi_square_threshold=lambda reject: None,
        training_paths=["train/0.png", "train/1.png"],
    )


def batch(indices, ignore=None):
    """Images of which those with an odd index are anomalous, with a mask from index 3 on."""
    count = len(indices)
    label = torch.tensor(indices) % 2
    mask = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    for i, index in enumerate(indices):
        mask[i, 2:7, 3:9] = index % 2 == 1 and index > 1
    return Batch(
        image=torch.zeros(count, 3, SIZE, SIZE),
        label=label,
        mask=mask if ignore is None else mask & ~ignore,
        index=torch.tensor(indices),
        path=[f"test/{index}.png" for index in indices],
        defect=["hole" if odd else "good" for odd in label],
        recipe={},
        ignore=ignore,
    )


def prediction(count, nearest=None):
    generator = torch.Generator().manual_seed(count)
    map = torch.rand(count, SIZE, SIZE, generator=generator)
    return Prediction(map, map.flatten(1).amax(1), nearest)


def record(folder, module, *seen, **arguments):
    recorder = TestRecorder(RunFolder(folder), **arguments)
    recorder.on_test_start(TRAINER, module)
    for outputs, batch in seen:
        recorder.on_test_batch_end(TRAINER, module, outputs, batch, 0)
    recorder.on_test_end(TRAINER, module)
    return recorder


def test_rows_are_in_the_order_of_the_data_set_and_maps_on_disk(tmp_path):
    first = prediction(2, torch.tensor([[1, 4, 5], [0, 2, 3]]))
    second = prediction(3)
    seen = [(first, batch([3, 0])), (None, batch([])), (second, batch([1, -1, 2]))]
    seen[2] = (Prediction(second.map[[0, 2]], second.score[[0, 2]]), batch([1, -1, 2]))
    recorder = record(tmp_path, module(), *seen)
    assert [row.path for row in recorder.rows] == [f"test/{i}.png" for i in range(4)]
    assert recorder.without_outline == ["test/1.png"]
    assert [row.nearest for row in recorder.rows] == [
        "train/0.png@2,3",
        None,
        None,
        "train/1.png@4,5",
    ]
    assert recorder.rows[3].score == float(first.score[0])
    written = read_map(tmp_path / recorder.rows[3].map_path)
    assert torch.allclose(written, first.map[0], atol=1e-4)
    assert {row.verdict for row in recorder.rows} == {""}


def test_pixel_metrics_are_those_of_the_pixels_that_are_not_ignored(tmp_path):
    ignore = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    ignore[:, :, :5] = True
    seen = batch([3, 4], ignore)
    found = prediction(2)
    recorder = record(tmp_path, module(calibration()), (found, seen), reject=0.1)
    bad, good = recorder.rows
    pixels = found.map[0][~ignore[0]].numpy()
    truth = seen.mask[0][~ignore[0]].numpy()
    assert bad.pixel_auroc == pytest.approx(roc_auc_score(truth, pixels))
    assert bad.pixel_ap == pytest.approx(average_precision_score(truth, pixels))
    assert bad.area == pytest.approx(np.mean(pixels > recorder.threshold.pixel))
    assert good.pixel_auroc is None
    assert good.area is not None


def test_p_values_and_verdicts_come_from_the_calibration(tmp_path):
    found = prediction(2)._replace(score=torch.tensor([0.5, 2.0]))
    recorder = record(tmp_path, module(calibration()), (found, batch([0, 1])), reject=0.05)
    assert [row.p_value for row in recorder.rows] == [11 / 20, 1 / 20]
    assert [row.verdict for row in recorder.rows] == ["passed", "found"]


def test_too_few_held_out_images_give_p_values_alone(tmp_path):
    with pytest.warns(UserWarning, match=r"19 held-out .* down to 0\.05, .* 0\.01 need 99"):
        recorder = record(tmp_path, module(calibration()), (prediction(1), batch([0])))
    assert recorder.threshold is None
    assert recorder.rows[0].p_value is not None


@pytest.mark.parametrize("view", ["", "resize 8"])
def test_a_calibration_of_images_preprocessed_alike_is_used(view):
    assert len(usable_calibration(module(calibration(view)))) == 19


def test_a_calibration_of_images_preprocessed_differently_is_not_used(tmp_path):
    other = module(calibration("resize 16"))
    seen = prediction(1), batch([0])
    with pytest.warns(UserWarning, match=r"differently \(resize 16\) from these \(resize 8\)"):
        recorder = record(tmp_path, other, seen, reject=0.05)
    assert recorder.threshold is None
    assert recorder.rows[0].p_value is None
    with pytest.warns(UserWarning, match="differently"):
        by_number = record(tmp_path, other, seen, method=0.25)
    assert by_number.threshold.image == 0.25


@pytest.mark.parametrize("name", ["/tmp/up", "../../up", "x" * 250, "\udccf\udcdd", "a\n\x1b[2J%'"])
def test_maps_stay_in_their_folder_whatever_the_data_call_them(name, tmp_path):
    seen = batch([1])
    seen.defect = [name]
    seen.path = [f"test/{Path(name).name}.png"]
    recorder = record(tmp_path / "run", module(), (prediction(1), seen))
    (written,) = tmp_path.rglob("*.png")
    assert written == tmp_path / "run" / recorder.rows[0].map_path
    assert written.parts[len(tmp_path.parts) :][:2] == ("run", "maps")
    assert len(written.relative_to(tmp_path).parts) == 4
