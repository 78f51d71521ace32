"""NaN and infinity: a sentence that names the first image, never a metric."""

import pytest
import torch
from minimal import Minimal
from small import make_small
from small_fits import trainer, tree_data

from lightning_ad.data.sample import Prediction
from lightning_ad.errors import NotFiniteError, WeightsError
from lightning_ad.evaluation.thresholds import Calibration
from lightning_ad.features.extraction import WholeBatch
from lightning_ad.methods.finite import check_scores, naming_images


def test_features_that_overflow_name_the_training_image(trees, tmp_path):
    module = make_small("PaDiM")
    plain = WholeBatch(module.backbone.plain_maps)  # a fused ReLU makes 0 of NaN
    module.backbone.extraction.extractor = lambda frozen, image: plain
    for parameter in module.backbone.parameters():
        parameter.mul_(1e12)
    with pytest.raises(NotFiniteError, match=r"the network's output of .*train.good.*\.png is not"):
        trainer(tmp_path).fit(module, tree_data(trees["mvtec"]))


def test_a_score_that_is_not_finite_names_the_image(trees, tmp_path):
    module = Minimal()
    fit = trainer(tmp_path)
    data = tree_data(trees["mvtec"])
    fit.fit(module, data)
    module.mean[0, 3, 3] = torch.nan
    for run in (fit.test, fit.predict):
        with pytest.raises(NotFiniteError, match=r"the score of .*test.broken.000\.png is not"):
            run(module, data)
    with pytest.raises(WeightsError, match=r"learned values in the checkpoint .* in 'mean'"):
        Minimal().load_learned(fit._checkpoint_connector.dump_checkpoint())
    module.mean.zero_()
    module.calibration = Calibration(*torch.tensor([[1.0, torch.nan]]).expand(3, 2))
    with pytest.raises(WeightsError, match=r"held-out scores in the checkpoint .* in 'good'"):
        Minimal().load_learned(fit._checkpoint_connector.dump_checkpoint())
    held_out = tree_data(trees["mvtec"], validation="holdout")
    module.forward = lambda image, ignore: Prediction(image[:, 0], image[:, 0, 0, 0] / 0)
    with pytest.raises(NotFiniteError, match=r"the score of .*train.good.*\.png is not"):
        trainer(tmp_path).validate(module, held_out)


def test_only_what_is_ignored_everywhere_may_have_no_score():
    maps = torch.zeros(3, 2, 2)
    check_scores(Prediction(maps, torch.tensor([0.0, -torch.inf, 1.0])))
    maps[2, 1, 1] = torch.inf
    with pytest.raises(NotFiniteError, match=r"image 3 of a batch"):
        check_scores(Prediction(maps, torch.zeros(3)))
    with pytest.raises(NotFiniteError, match=r"of c\.png"), naming_images(["a", "b", "c.png"]):
        check_scores(Prediction(maps, torch.zeros(3)))
