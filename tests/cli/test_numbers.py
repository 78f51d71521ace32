"""Numbers that no setting can mean are refused by their key, before anything is built."""

import pytest
from jsonargparse import Namespace
from runs import flags

from lightning_ad.cli.numbers import check_numbers
from lightning_ad.cli.run import RunCLI
from lightning_ad.errors import UsageError

REFUSED = {
    "--metrics_gb inf": "metrics_gb: expected a finite number of usual size, got inf",
    "--data.max_megapixels .nan": "data.max_megapixels: expected a finite number",
    "--trim 1e-300": "trim: expected 0 or at least 1e-30, got 1e-300",
    "--threshold .nan": "threshold: expected a finite number",
    "--model.sigma .inf": "model.init_args.sigma: expected a finite number",
    "--trainer.gradient_clip_val .nan": "trainer.gradient_clip_val: expected a finite number",
    "--data.batch_size 99999999999999999999": "data.batch_size: expected a finite number of usual",
}


@pytest.mark.parametrize("words", REFUSED)
def test_it_is_refused(trees, tmp_path, words):
    with pytest.raises(UsageError, match=REFUSED[words]):
        RunCLI([*flags("PaDiM", "mvtec", trees, tmp_path), *words.split()])
    assert not list(tmp_path.iterdir())


def test_arguments_of_other_packages_are_theirs():
    infinite = {"class_path": "lightning.Callback", "init_args": {"a": float("inf")}}
    check_numbers(Namespace(callbacks=[infinite], share=1e-12, count=True, sizes=[[1, 2], 0]))
    own = Namespace(callbacks=[{"class_path": "lightning_ad.callbacks.X", "init_args": infinite}])
    check_numbers(own)
    with pytest.raises(UsageError, match=r"sizes\.1: expected"):
        check_numbers(Namespace(sizes=[1, float("nan")]))
