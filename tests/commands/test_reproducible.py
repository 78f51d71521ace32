"""The same seed on the same machine: the same bits, however many workers read the images."""

import pytest
from runs import assert_same_weights, flags, logged, metrics_of
from small import LEARNED

from lightning_ad.commands.train import train


@pytest.mark.parametrize("method", LEARNED)
def test_workers_change_nothing(method, trees, tmp_path):
    """Of fit-only methods, `tests/methods/contract.py` says it, over batches and processes too."""
    args = flags(method, "mvtec", trees, tmp_path)
    one = train([*args, "--name", "one"]).path
    other = train([*args, "--name", "other", "--data.num_workers", "2"]).path
    assert_same_weights(one, other)
    assert metrics_of(one) == metrics_of(other)
    assert logged(one, "loss") == logged(other, "loss")


def test_a_feature_cache_changes_nothing(trees, tmp_path):
    args = flags("PatchCore", "mvtec", trees, tmp_path)
    plain = train([*args, "--name", "plain"]).path
    for name in ("first", "second"):
        cached = train([*args, "--name", name, "--feature_cache", str(tmp_path / "features")]).path
        assert_same_weights(plain, cached)
        assert metrics_of(plain) == metrics_of(cached)
    assert len(list((tmp_path / "features").glob("*/*/*"))) == 14  # 7 training and 7 test images
