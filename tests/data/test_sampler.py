import pytest

from lightning_ad.data.sampler import KeySampler


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 5, 12])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_row_once_and_the_same_number_everywhere(world, count, shuffle):
    parts = [
        list(KeySampler(range(count), shuffle=shuffle, seed=3, rank=r, world_size=world))
        for r in range(world)
    ]
    assert len({len(p) for p in parts}) == 1
    assert sorted(k.index for p in parts for k in p if not k.padding) == list(range(count))


def test_two_processes_with_half_the_batch_see_the_batches_of_one():
    one = [k.index for k in KeySampler(range(8), shuffle=True, seed=0)]
    halves = [
        [k.index for k in KeySampler(range(8), shuffle=True, seed=0, rank=r, world_size=2)]
        for r in (0, 1)
    ]
    for batch in range(2):
        together = {i for half in halves for i in half[2 * batch : 2 * batch + 2]}
        assert together == set(one[4 * batch : 4 * batch + 4])


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = KeySampler(range(50), shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert {k.epoch for k in keys} == {epoch}
        return [k.index for k in keys]

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


def rows(sampler):
    return [key.index for key in sampler]


@pytest.mark.parametrize("rank", [0, 1])
def test_rows_that_were_read_before_are_left_out(rank):
    def sampler(**options):
        return KeySampler(range(12), shuffle=True, seed=0, rank=rank, world_size=2, **options)

    every = rows(sampler())
    resumed = sampler(start=2)
    assert len(resumed) == 4
    resumed.leave_out_once(1)
    assert rows(resumed) == every[3:]
    assert rows(resumed) == every[2:]


def test_a_sampler_from_the_start_is_another_one():
    resumed = KeySampler(range(12), shuffle=True, seed=0, rank=1, world_size=2, tiles=2, start=2)
    resumed.set_epoch(3)
    whole = resumed.from_the_start()
    assert len(whole) == 6
    assert len(resumed) == 4
    assert rows(whole)[2:] == rows(resumed)
    assert {key.epoch for key in whole} == {3}
