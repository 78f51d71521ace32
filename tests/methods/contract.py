"""What every method must keep. A test class names its method, and inherits the tests."""

from pathlib import Path

import pytest
import torch
from runs import script
from small import make_small
from small_fits import trainer, tree_data
from tiling import assert_together_as_alone

from lightning_ad.errors import UsageError, UserError
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.methods import FitOnlyModule, NotFittedError
from lightning_ad.methods.run_settings import RunSettings


def training_images(data):
    """[N, 3, H, W], in the order of the data set."""
    data.setup()
    dataset = data.training_set()
    return torch.cat([dataset[row].image for row in range(len(dataset))])


def fitted(module, data, folder):
    run = trainer(folder)
    run.fit(module, datamodule=data)
    return module, run


def extending(module, checkpoint):
    """The module, with a finished fit to which the next one adds its images."""
    module.configure_run(RunSettings(), torch.load(checkpoint, weights_only=True))
    return module


def lists_suspects(module):
    return type(module).leave_one_out is not FitOnlyModule.leave_one_out


def summary(module):
    """What a fit leaves: the checkpoint but for the frozen networks and the anchor."""
    return {k: v for k, v in module.state_dict().items() if "backbone" not in k and k != "anchor"}


class Contract:
    """What every method must keep.

    Attributes:
        method: its name.
        options: arguments beside those of `small_arguments`.
    """

    method: str
    options: dict = {}

    @classmethod
    def make(cls):
        return make_small(cls.method, **cls.options)

    @pytest.fixture(scope="class")
    def reference(self, request, tmp_path_factory):
        """A fit on one process, images one by one if the method allows for that."""
        trees = request.getfixturevalue("trees")
        data = tree_data(trees["mvtec"], batch_size=self.reference_batch)
        return fitted(self.make(), data, tmp_path_factory.mktemp("reference"))[0].eval()

    reference_batch = 4
    metrics_tolerance = 1e-6

    def test_the_score_is_a_finite_number_for_each_image(self, reference):
        images = torch.rand(3, 3, 64, 64)
        with torch.no_grad():
            prediction = reference(images)
            one_by_one = torch.cat([reference(image[None]).score for image in images])
        assert prediction.map.shape == (3, 64, 64)
        assert prediction.score.shape == (3,)
        assert prediction.map.isfinite().all()
        assert prediction.score.isfinite().all()
        torch.testing.assert_close(one_by_one, prediction.score, rtol=1e-4, atol=1e-6)

    def test_the_checkpoint_is_enough(self, reference, trees, tmp_path):
        module, run = fitted(self.make(), tree_data(trees["mvtec"]), tmp_path)
        run.save_checkpoint(tmp_path / "a.ckpt")
        fresh = type(module).load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True).eval()
        images = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(fresh(images).score, module.eval()(images).score)
        assert fresh.trained_images == 7
        self.assert_loaded(fresh)

    def assert_loaded(self, fresh):
        pass


class LearnedContract(Contract):
    """What every method with a loss must keep."""

    def test_the_loss_is_the_sum_of_its_parts(self, trees, tmp_path):
        run = fitted(self.make(), tree_data(trees["mvtec"]), tmp_path)[1]
        logged = {name: float(value) for name, value in run.callback_metrics.items()}
        parts = [value for name, value in logged.items() if name.startswith("loss_")]
        assert parts
        assert logged["loss"] == pytest.approx(sum(parts), rel=1e-5)
        assert 0 < logged["gradient_norm"] < float("inf")

    def test_a_step_moves_what_is_trained_and_nothing_else(self, trees, tmp_path):
        module = self.make()
        before = {name: value.clone() for name, value in module.named_parameters()}
        fitted(module, tree_data(trees["mvtec"]), tmp_path)
        moved = {n for n, value in module.named_parameters() if not torch.equal(value, before[n])}
        trained = {name for name, value in module.named_parameters() if value.requires_grad}
        assert moved
        assert moved <= trained


class FitOnlyContract(Contract):
    """What every method that only keeps a summary must keep.

    Attributes:
        selects: its summary is a selection (the same bits), not a sum (up to `tolerance`).
    """

    selects = False
    tolerance = 1e-6
    reference_batch = 1

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

    def assert_loaded(self, fresh):
        assert [Path(p).name for p in fresh.training_paths] == [f"{i:03d}.png" for i in range(7)]

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
        assert found[1] == pytest.approx(found[0], abs=self.metrics_tolerance)
        assert set(found[0]) >= set(METRIC_NAMES)

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
        wanted = reference(images).score
        module = self.make()
        trainer(tmp_path, precision="bf16-mixed").fit(module, datamodule=tree_data(trees["mvtec"]))
        with torch.autocast("cpu", torch.bfloat16):
            prediction = module.eval()(images)
        assert prediction.map.dtype == prediction.score.dtype == torch.float32
        torch.testing.assert_close(prediction.score, wanted, rtol=0.05, atol=0)
        if module.compile_targets:  # a network, which computes in half precision
            assert not torch.equal(prediction.score, wanted)

    def test_no_image_has_no_score(self, reference):
        prediction = reference(torch.rand(0, 3, 64, 64))
        assert prediction.map.shape == (0, 64, 64)
        assert prediction.score.shape == (0,)

    def test_a_second_fit_forgets_the_first(self, trees, tmp_path):
        def other():
            return tree_data(trees["folder"], layout="folder", category=None)

        twice, _ = fitted(self.make(), tree_data(trees["mvtec"]), tmp_path)
        fitted(twice, other(), tmp_path)
        once, _ = fitted(self.make(), other(), tmp_path)
        self.assert_same(summary(once), summary(twice))

    def test_a_fit_that_is_extended(self, trees, tmp_path):
        """Two fits one after the other have seen what one has."""
        first, run = fitted(self.make(), tree_data(trees["mvtec"]), tmp_path)
        run.save_checkpoint(tmp_path / "a.ckpt")
        if not first.can_extend:
            with pytest.raises(UsageError, match="cannot add images to a finished fit"):
                extending(self.make(), tmp_path / "a.ckpt")
            return
        grown = extending(self.make(), tmp_path / "a.ckpt")
        fitted(grown, tree_data(trees["more"]), tmp_path)
        assert int(grown.images) == 12
        assert len(grown.training_paths) == 12
        whole, _ = fitted(self.make(), tree_data(trees["all"]), tmp_path)
        self.assert_extended(first, grown, whole, trees)

    def assert_extended(self, first, grown, whole, trees):
        """Sums are those of a fit on all images."""
        self.assert_same(summary(whole), summary(grown))

    def test_leaving_an_image_out_of_too_few_is_refused(self):
        module = self.make()
        if not lists_suspects(module):
            pytest.skip("lists no suspects")
        with pytest.raises(UserError, match="training image"):
            module.leave_one_out(torch.rand(1, 3, 64, 64), torch.tensor([0]))

    def test_suspects_and_trimming(self, trees, tmp_path):
        """Each training image is scored; a fit without the most suspicious one never saw it."""
        module = self.make()
        settings = RunSettings(trim=0.15)  # 1 of 7
        if not lists_suspects(module):
            with pytest.raises(UsageError, match=f"{self.method} cannot list suspects"):
                module.configure_run(settings)
            return
        module.configure_run(settings)
        fitted(module, tree_data(trees["mvtec"]), tmp_path)
        assert len(module.suspects) == 7
        assert [s.trimmed for s in module.suspects] == [True, *[False] * 6]
        scores = [s.score for s in module.suspects]
        assert scores == sorted(scores, reverse=True)
        assert module.suspects[0].path not in module.training_paths
        assert int(module.images) == len(module.training_paths) == 6


def fit_over_processes(cases, processes, root, folder):
    """Fits and tests methods, given by their names with their options, on several processes.

    Returns:
        The summary and the metrics of each, by its name.
    """
    torch.save(cases, folder / "cases.pt")
    done = script("tests/helpers/fit_all.py", ["--trainer.devices", processes, root, folder])
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "found.pt", weights_only=True)
