"""What every fit-only method must keep. A test class names its method, and inherits the tests."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from runs import script
from tiled import assert_together_as_alone

from lightning_ad import methods
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.methods import NotFittedError

SMALL = {"backbone": "resnet18", "weights": None}


def tree_data(root, **options):
    """The tiny MVTec tree of conftest: 7 good images for training, 3 good and 4 anomalous ones for testing."""
    tree = {
        "layout": "mvtec",
        "root": str(root),
        "category": "bottle",
        "image_size": 64,
        "batch_size": 4,
    }
    return AnomalyDataModule(**{**tree, "num_workers": 0, **options})


def training_images(data):
    """[N, 3, H, W], in the order of the data set."""
    data.setup()
    dataset = data.training_set()
    return torch.cat([dataset[row].image for row in range(len(dataset))])


def trainer(folder, **options):
    return Trainer(
        **{"accelerator": "cpu", "devices": 1, **options}, max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip


def fitted(module, data, folder):
    run = trainer(folder)
    run.fit(module, datamodule=data)
    return module, run


def summary(module):
    """What a fit leaves: the checkpoint but for the frozen networks and the anchor."""
    return {k: v for k, v in module.state_dict().items() if "backbone" not in k and k != "anchor"}


class FitOnlyContract:
    """Attributes: the method's name, its options for a quick fit, and whether its summary is a selection (same bits)
    or a sum (1e-6)."""

    method: str
    options: dict = {}
    selects = False
    tolerance = 1e-6

    @classmethod
    def make(cls):
        torch.manual_seed(0)  # of the random backbone
        return getattr(methods, cls.method)(**{**SMALL, **cls.options})

    @pytest.fixture(scope="class")
    def reference(self, request, tmp_path_factory):
        """A fit on one process, images one by one."""
        trees = request.getfixturevalue("trees")
        data = tree_data(trees["mvtec"], batch_size=1)
        return fitted(self.make(), data, tmp_path_factory.mktemp("reference"))[0]

    def assert_same(self, one, other):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if self.selects or not value.is_floating_point():
                assert torch.equal(value, other[name]), name
            else:
                scale = float(value.abs().max()) or 1.0
                torch.testing.assert_close(
                    other[name], value, rtol=0, atol=self.tolerance * scale, msg=name
                )

    @pytest.mark.parametrize(
        "options",
        [{"batch_size": 16}, {"batch_size": 3, "num_workers": 2}, {"batch_size": 2, "seed": 9}],
    )
    def test_batches_order_and_workers_do_not_matter(self, options, reference, trees, tmp_path):
        module, _ = fitted(self.make(), tree_data(trees["mvtec"], **options), tmp_path)
        self.assert_same(summary(reference), summary(module))

    @pytest.mark.parametrize("options", [{"batch_size": 16}, {"batch_size": 1, "num_workers": 2}])
    def test_metrics_do_not_depend_on_batches_and_workers(
        self, options, reference, trees, tmp_path
    ):
        found = []
        for one in ({}, options):
            run = trainer(tmp_path)
            run.test(reference, datamodule=tree_data(trees["mvtec"], **one), verbose=False)
            found.append({k: float(v) for k, v in run.callback_metrics.items()})
        assert found[1] == pytest.approx(found[0], abs=1e-6)
        assert len(found[0]) == 8

    @pytest.mark.distributed
    @pytest.mark.xdist_group("processes")  # one worker: the fits are of all methods at once
    @pytest.mark.parametrize("processes", [2, 3])
    def test_processes_do_not_matter(
        self, processes, reference, trees, fits_over_processes, tmp_path
    ):
        found = fits_over_processes(processes)[self.method]
        self.assert_same(summary(reference), found["summary"])
        run = trainer(tmp_path)
        run.test(reference, datamodule=tree_data(trees["mvtec"]), verbose=False)
        assert found["metrics"] == pytest.approx(
            {k: float(v) for k, v in run.callback_metrics.items()}, abs=1e-6
        )

    def test_scoring_before_a_fit_raises(self):
        with pytest.raises(NotFittedError, match="has not been fitted"):
            self.make()(torch.rand(1, 3, 64, 64))

    def test_the_score_is_a_finite_number_for_each_image(self, reference):
        images = torch.rand(3, 3, 64, 64)
        prediction = reference.eval()(images)
        assert prediction.map.shape == (3, 64, 64)
        assert prediction.score.shape == (3,)
        assert prediction.map.isfinite().all()
        assert prediction.score.isfinite().all()
        one_by_one = torch.cat([reference(image[None]).score for image in images])
        torch.testing.assert_close(one_by_one, prediction.score, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("threads", "together"), [(1, 1), (3, 3), (6, 4)])
    def test_tiles_are_scored_side_by_side(self, threads, together, reference):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            assert_together_as_alone(reference, together)
        finally:
            torch.set_num_threads(before)

    def test_half_precision(self, reference, trees, tmp_path):
        """A fit in it and scores in it are near those in single precision."""
        images = torch.rand(3, 3, 64, 64)
        wanted = reference.eval()(images).score
        module = self.make()
        trainer(tmp_path, precision="bf16-mixed").fit(module, datamodule=tree_data(trees["mvtec"]))
        with torch.autocast("cpu", torch.bfloat16):
            prediction = module.eval()(images)
        assert prediction.map.dtype == prediction.score.dtype == torch.float32
        torch.testing.assert_close(prediction.score, wanted, rtol=0.05, atol=0)
        assert not torch.equal(prediction.score, wanted)

    def test_no_image_has_no_score(self, reference):
        prediction = reference.eval()(torch.rand(0, 3, 64, 64))
        assert prediction.map.shape == (0, 64, 64)
        assert prediction.score.shape == (0,)

    def test_a_second_fit_forgets_the_first(self, trees, tmp_path):
        def other():
            return tree_data(trees["folder"], layout="folder", category=None)

        twice, _ = fitted(self.make(), tree_data(trees["mvtec"]), tmp_path)
        fitted(twice, other(), tmp_path)
        once, _ = fitted(self.make(), other(), tmp_path)
        self.assert_same(summary(once), summary(twice))

    def test_the_checkpoint_is_enough(self, trees, tmp_path):
        module, run = fitted(self.make(), tree_data(trees["mvtec"]), tmp_path)
        run.save_checkpoint(tmp_path / "a.ckpt")
        fresh = type(module).load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True).eval()
        images = torch.rand(2, 3, 64, 64)
        torch.testing.assert_close(fresh(images).score, module.eval()(images).score, rtol=0, atol=0)
        assert [Path(p).name for p in fresh.training_paths] == [f"{i:03d}.png" for i in range(7)]

    def test_growing(self, trees, tmp_path):
        """Two fits one after the other have seen what one has."""
        first, run = fitted(self.make(), tree_data(trees["mvtec"]), tmp_path)
        run.save_checkpoint(tmp_path / "a.ckpt")
        grown = self.make()
        grown.grow_from(torch.load(tmp_path / "a.ckpt", weights_only=True))
        fitted(grown, tree_data(trees["more"]), tmp_path)
        assert int(grown.images) == 12
        assert len(grown.training_paths) == 12
        whole, _ = fitted(self.make(), tree_data(trees["all"]), tmp_path)
        self.assert_grown(first, grown, whole, trees)

    def assert_grown(self, first, grown, whole, trees):
        """Sums are those of a fit on all images."""
        self.assert_same(summary(whole), summary(grown))

    def test_suspects_and_trimming(self, trees, tmp_path):
        """Each training image is scored; a fit without the most suspicious one never saw it."""
        module = self.make()
        module.trim = 0.15  # 1 of 7
        fitted(module, tree_data(trees["mvtec"]), tmp_path)
        assert len(module.suspects) == 7
        assert [s.trimmed for s in module.suspects] == [True, *[False] * 6]
        scores = [s.score for s in module.suspects]
        assert scores == sorted(scores, reverse=True)
        assert module.suspects[0].path not in module.training_paths
        assert int(module.images) == len(module.training_paths) == 6


def fit_over_processes(processes, root, folder):
    """Fits and tests every method of the contract on several processes; their summaries and metrics by name."""
    done = script("tests/helpers/fit_all.py", ["--trainer.devices", processes, root, folder])
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "found.pt", weights_only=True)
