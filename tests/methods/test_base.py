"""What every method has from its base: the test step, its evaluators, checks before a run."""

import pytest
import torch
from contract import fitted, trainer, tree_data
from minimal import Minimal
from small import make_small

from lightning_ad.data.sample import collate
from lightning_ad.errors import UsageError, WeightsError
from lightning_ad.evaluation import METRIC_NAMES, catalogue
from lightning_ad.methods.run_settings import RunSettings


class HighestScore:
    """An evaluator: the highest score of a test, and the number of its images."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.scores = torch.empty(0)

    def update(self, batch, prediction):
        assert len(batch) == len(prediction.score)
        self.scores = torch.cat([self.scores, prediction.score])

    def compute(self):
        return {"image_highest_score": float(self.scores.max()), "images": float(len(self.scores))}


@pytest.fixture
def evaluated(monkeypatch):
    monkeypatch.setattr(catalogue, "EVALUATORS", (HighestScore,))


def test_an_evaluator_sees_each_test_image_once_and_is_logged(evaluated, trees, tmp_path):
    module, run = fitted(Minimal(), tree_data(trees["mvtec"]), tmp_path)
    for _ in range(2):
        run.test(module, datamodule=tree_data(trees["mvtec"], batch_size=3), verbose=False)
        assert {*METRIC_NAMES} < {*run.callback_metrics} >= {"image_highest_score", "images"}
        rows = run.predict(module, datamodule=tree_data(trees["mvtec"]))
        highest = max(float(row.score.max()) for row in rows)
        assert module.test_metrics["image_highest_score"] == pytest.approx(highest)
        assert module.test_metrics["images"] == 7


def test_test_metrics_are_those_that_are_logged(trees, tmp_path):
    module, run = fitted(Minimal(), tree_data(trees["mvtec"]), tmp_path)
    run.test(module, datamodule=tree_data(trees["mvtec"]), verbose=False)
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert module.test_metrics == pytest.approx(logged)


def test_the_metrics_take_no_more_memory_than_the_run_allows(trees, tmp_path):
    module = Minimal()
    module.configure_run(RunSettings(metrics_gb=0.0))
    _, run = fitted(module, tree_data(trees["mvtec"]), tmp_path)
    with pytest.warns(UserWarning, match="The pixels take more than 0 GiB"):
        run.test(module, datamodule=tree_data(trees["mvtec"]), verbose=False)


def test_an_image_size_that_does_not_fit_names_the_nearest_that_does(trees, tmp_path):
    module = make_small("DRAEM")
    message = r"multiples of \d+, got 40x40: set data.image_size .* to \[\d+, \d+\]"
    with pytest.raises(UsageError, match=message):
        trainer(tmp_path).fit(module, datamodule=tree_data(trees["mvtec"], image_size=40))


def test_a_precision_that_was_not_tried_is_refused(trees, tmp_path):
    with pytest.raises(UsageError, match="set it to one of 32-true, bf16-mixed"):
        trainer(tmp_path, precision="64-true").fit(Minimal(), datamodule=tree_data(trees["mvtec"]))


def test_a_checkpoint_of_another_method_is_refused(trees, tmp_path):
    _, run = fitted(Minimal(), tree_data(trees["mvtec"]), tmp_path)
    run.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    with pytest.raises(WeightsError, match="a checkpoint of Minimal, not of PaDiM"):
        make_small("PaDiM").load_learned(checkpoint)


def test_without_a_data_module_loaders_are_enough(trees, tmp_path):
    """Trainer.fit of plain Python: no settings, and the loaders of someone's own."""
    data = tree_data(trees["mvtec"])
    data.prepare_data()
    data.setup()
    module = make_small("DRAEM")
    run = trainer(tmp_path)
    run.fit(
        module,
        train_dataloaders=torch.utils.data.DataLoader(
            data.training_set(module.synthesis), batch_size=4, collate_fn=collate
        ),
    )
    assert module.data is None
    assert run.callback_metrics["loss"].isfinite()


def test_the_data_modules_own_loader_is_enough_for_a_summary(trees, tmp_path):
    data = tree_data(trees["mvtec"])
    data.prepare_data()
    data.setup()
    alone = make_small("PaDiM")
    trainer(tmp_path).fit(alone, train_dataloaders=data.train_dataloader())
    usual = make_small("PaDiM")
    trainer(tmp_path).fit(usual, datamodule=tree_data(trees["mvtec"]))
    for name, value in usual.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name]), name


def test_loaders_of_something_else_are_a_sentence(trees, tmp_path):
    data = tree_data(trees["mvtec"])
    data.prepare_data()
    data.setup()
    with pytest.raises(UsageError, match="draws none: give the data module"):
        trainer(tmp_path).fit(make_small("DRAEM"), train_dataloaders=data.train_dataloader())
    pixels = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 3, 64, 64)))
    for method in ("PaDiM", "PFM"):
        with pytest.raises(UsageError, match="gives TensorDataset: give the data module"):
            trainer(tmp_path).fit(make_small(method), train_dataloaders=pixels)


def test_a_trainer_that_was_used_is_refused(trees, tmp_path):
    """A notebook's loop over categories with one trainer; it trained nothing, without a word."""
    data = tree_data(trees["mvtec"])
    summary, run = fitted(make_small("PaDiM"), data, tmp_path)
    for module in (summary, make_small("PaDiM"), make_small("DRAEM")):
        with pytest.raises(UsageError, match=r"already fitted 1 of 1 epochs.*make a new Trainer"):
            run.fit(module, datamodule=data)
    learned = make_small("DRAEM")
    run = trainer(tmp_path, max_epochs=1)
    run.fit(learned, datamodule=data)
    run.fit_loop.max_epochs = 2
    with pytest.raises(UsageError, match="already fitted 1 of 2 epochs"):
        run.fit(make_small("DRAEM"), datamodule=data)
    run.fit(learned, datamodule=data)
    assert run.current_epoch == 2
    assert learned.trained_images == 7


def test_images_of_any_loader_are_scored():
    module = Minimal().eval()
    module.fitted.fill_(True)
    module.mean = torch.zeros(3, 32, 32)
    image = torch.rand(2, 3, 32, 32)
    expected = module.score(image).score
    for batch in (image, [image, torch.zeros(2)], (image,)):
        assert torch.equal(module.predict_step(batch, 0).score, expected)


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (torch.rand(3, 32, 32), r"torch.float32 \[3, 32, 32\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "torch.uint8"),
        (torch.ones(1, 3, 8, 8) * 255, r"torch.float32 .* from 255 to 255"),
        ({"image": 1}, "a dict"),
        ([], "a list"),
    ],
)
def test_what_is_no_images_is_a_sentence(batch, got):
    with pytest.raises(UsageError, match=f"expected images, float .* got {got}"):
        Minimal().predict_step(batch, 0)
