"""Constructor arguments that are refused, by every method; the message names the argument."""

import pytest
from small import small_arguments

from lightning_ad import methods
from lightning_ad.errors import UsageError
from lightning_ad.methods.arguments import check_at_least, check_odd, check_within

REFUSED = [
    ("PatchCore", "patch_size", 2),
    ("PatchCore", "patch_size", -1),
    ("PatchCore", "layer_dimension", None),  # without `dimension`
    ("PatchCore", "dimension", 0),
    ("PatchCore", "coreset_ratio", 0.0),
    ("PatchCore", "coreset_ratio", 1.1),
    ("PatchCore", "projection", 0),
    ("PatchCore", "neighbours", 0),
    ("PatchCore", "reweight", 1),
    ("PatchCore", "sigma", -1.0),
    ("PatchCore", "memory_gb", -1.0),
    ("PatchCore", "weights", [None]),  # of one backbone
    ("PaDiM", "dimension", 10_000),
    ("PaDiM", "dimension", 0),
    ("PaDiM", "epsilon", 0.0),
    ("PaDiM", "sigma", -1.0),
    ("SPADE", "k_image", 0),
    ("SPADE", "k_pixel", 0),
    ("SPADE", "neighbours", 0),
    ("SPADE", "sigma", -1.0),
    ("SPADE", "memory_gb", -1.0),
    ("SPADE", "layers", ["layer1"]),
    ("MahalanobisAD", "variance", 1.0),
    ("MahalanobisAD", "sigma", -1.0),
    ("CFA", "gamma_c", 0),
    ("CFA", "gamma_d", 0),
    ("CFA", "gamma_d", 2000),
    ("CFA", "neighbours", 0),
    ("CFA", "hard_negatives", 0),
    ("CFA", "nu", 0.0),
    ("CFA", "sigma", -1.0),
    ("PFM", "levels", (2, 2)),
    ("PFM", "levels", (0, 1)),
    ("PFM", "latents", (8, 8)),
    ("DRAEM", "anomaly_probability", 1.5),
    ("DRAEM", "rotate_probability", -0.5),
    ("DRAEM", "augmenters", 11),
    ("DRAEM", "score_window", 20),
    ("DRAEM", "opacity", (0.8, 0.2)),
    ("DRAEM", "lr_milestones", (400, 600)),
    ("DRAEM", "encoder_weights", "imagenet"),  # of the original networks
]


@pytest.mark.parametrize(("method", "argument", "value"), REFUSED)
def test_a_refused_argument_is_named(method, argument, value):
    with pytest.raises(UsageError, match=rf"model\.{argument}\b"):
        getattr(methods, method)(**{**small_arguments(method), argument: value})


def test_a_message_says_what_was_expected_and_what_came():
    with pytest.raises(UsageError, match=r"^model\.b must be at least 2, got 1$"):
        check_at_least(a=(2, 2), unset=(None, 1), b=(1, 2))
    with pytest.raises(UsageError, match=r"^model\.b must be from 0 to 1, got 1\.5$"):
        check_within(0, 1, a=0, c=1.0, b=1.5)
    with pytest.raises(UsageError, match=r"^model\.b must be odd and positive, got 4$"):
        check_odd(a=1, b=4)
