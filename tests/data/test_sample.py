import pytest
import torch

from lightning_ad.data.sample import Batch, Regions, Sample, Saturation, collate


def item(row, **options):
    return Batch(
        image=torch.full((1, 3, 4, 5), row / 10),
        label=torch.tensor([row % 2]),
        mask=torch.full((1, 4, 5), row % 2 == 1),
        index=torch.tensor([row]),
        path=[f"{row}.png"],
        defect=["dent" if row % 2 else "good"],
        recipe={"angle": torch.tensor([float(row)])},
        **options,
    )


def test_joined_rows_keep_their_order():
    batch = collate([item(2), item(0), item(1)])
    assert len(batch) == 3
    assert batch.image[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0, 0.1])
    assert batch.index.tolist() == [2, 0, 1]
    assert batch.label.tolist() == [0, 0, 1]
    assert batch.mask.flatten(1).any(1).tolist() == [False, False, True]
    assert batch.path == ["2.png", "0.png", "1.png"]
    assert batch.defect == ["good", "good", "dent"]
    assert batch.recipe["angle"].tolist() == [2, 0, 1]
    assert batch.regions == []
    assert batch.ignore is None


def test_a_selection_takes_the_same_rows_of_everything():
    regions = Regions(torch.ones(1, 4, 5, dtype=torch.bool), torch.ones(1))
    items = []
    for row in range(3):
        ignore = torch.full((1, 4, 5), row == 2)
        items.append(item(row, ignore=ignore, regions=[regions if row == 2 else None]))
    batch = collate(items)
    found = batch.select(torch.tensor([True, False, True]))
    assert found.index.tolist() == [0, 2]
    assert found.image.shape == (2, 3, 4, 5)
    assert found.path == ["0.png", "2.png"]
    assert found.defect == ["good", "good"]
    assert found.recipe["angle"].tolist() == [0, 2]
    assert found.ignore.flatten(1).all(1).tolist() == [False, True]
    assert found.regions == [None, regions]
    assert batch.index.tolist() == [0, 1, 2]


def test_padding_is_left_out():
    batch = collate([item(0), item(1), item(2)])
    batch.index[1] = -1
    found = batch.without_padding()
    assert isinstance(found, Batch)
    assert found.index.tolist() == [0, 2]
    assert found.path == ["0.png", "2.png"]
    assert found.without_padding() is found


@pytest.mark.parametrize(
    ("threshold", "relative", "area", "share"),
    [
        (20, False, 100, 0.2),
        (20, False, 10, 1.0),
        (0.5, True, 100, 0.5),
        (1.5, True, 100, 1.0),
        (0.75, True, 10, 0.7),  # 7 whole pixels, as in the data set's own code
        (0.3, True, 2, 0.5),  # one at least
    ],
)
def test_the_share_of_a_region_that_must_be_found(threshold, relative, area, share):
    assert Saturation(3, threshold, relative).share(area) == share


def test_a_share_of_a_region_in_runs_from_before_is_not_rounded():
    assert Saturation(3, 0.75, True, whole_pixels=False).share(10) == 0.75


def test_without_its_label_a_sample_is_good():
    saturations = (Saturation(3, 20, False),)
    sample = Sample("a.png", "test", "dent", "mask.png", 0, saturations, ignore_path="ignore.png")
    blind = sample.without_label()
    assert blind == Sample("a.png", "test", mask_threshold=255, ignore_path="ignore.png")
    assert blind.label == 0


def test_without_its_label_a_mask_says_what_is_ignored_alone():
    sample = Sample("a.png", "test", "dent", "mask.png", 0, ignore_value=128)
    blind = sample.without_label()
    assert blind.mask_path == "mask.png"
    assert blind.mask_threshold == 255
