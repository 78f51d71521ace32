import pytest
from sklearn.model_selection import KFold

from lightning_ad.data.sample import Sample
from lightning_ad.data.splitting import HoldOut, by_split
from lightning_ad.errors import DataError, UsageError

TRAIN = [Sample(f"{number}.png", "train") for number in range(7)]
GIVEN = [Sample("given.png", "validation")]


def hold_out(validation, share=0.1, folds=5, fold=0, seed=0):
    return HoldOut(validation, share, folds, fold, seed)


def test_samples_by_split_keep_their_order():
    test = [Sample("b.png", "test"), Sample("a.png", "test", "dent")]
    found = by_split([test[0], *TRAIN, test[1]])
    assert found == {"train": TRAIN, "validation": [], "test": test}


def test_none_holds_nothing_out():
    assert hold_out("none").split(TRAIN, GIVEN) == (TRAIN, [])


def test_a_seeded_part_of_the_training_images():
    train, held = hold_out("holdout", share=0.3).split(TRAIN, GIVEN)
    assert len(train) == 5
    assert len(held) == 2
    assert {*train, *held} == {*TRAIN}
    assert hold_out("holdout", share=0.3).split(TRAIN, GIVEN) == (train, held)
    assert hold_out("holdout", share=0.3, seed=1).split(TRAIN, GIVEN)[1] != held


def test_a_share_that_leaves_nothing():
    with pytest.raises(DataError, match="1 training images are too few to hold out 50%"):
        hold_out("holdout", share=0.5).split(TRAIN[:1], [])


@pytest.mark.parametrize("fold", range(5))
def test_folds_are_those_of_scikit_learn(fold):
    train, held = hold_out("fold", fold=fold, seed=3).split(TRAIN, [])
    expected = list(KFold(5, shuffle=True, random_state=3).split(TRAIN))[fold]
    assert train == [TRAIN[row] for row in expected[0]]
    assert held == [TRAIN[row] for row in expected[1]]


def test_more_folds_than_images():
    with pytest.raises(DataError, match=r"7 training images are too few for 8 data\.folds"):
        hold_out("fold", folds=8).split(TRAIN, [])


def test_a_given_validation_set_must_be_there():
    assert hold_out("given").split(TRAIN, GIVEN) == (TRAIN, GIVEN)
    with pytest.raises(UsageError, match="has no validation set"):
        hold_out("given").split(TRAIN, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, r"data\.validation_share: .* got 1.5"),
        ({"share": 0}, r"data\.validation_share: .* got 0"),
        ({"folds": 1}, r"data\.fold: .* got fold 0 of 1"),
        ({"fold": 5}, r"data\.fold: .* got fold 5 of 5"),
        ({"fold": -1}, r"data\.fold: .* got fold -1 of 5"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(UsageError, match=message):
        hold_out("none", **options)
