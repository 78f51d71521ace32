"""Features in main memory: those of rows that come again are not computed again."""

import torch

from lightning_ad.features.cache import FeatureCache

ROW_BYTES = 4 * (3 + 2)
ALL = torch.arange(50.0).reshape(10, 5)


class Network:
    """Gives two features of each row, and remembers which rows it was asked for."""

    def __init__(self):
        self.asked = []

    def features(self, cache, index):
        def compute(places):
            rows = [index[place] for place in places.tolist()]
            self.asked.append(rows)
            return [ALL[rows, :3], ALL[rows, 3:]]

        return cache.get(index, compute)


def assert_features(found, index):
    assert torch.equal(torch.cat(found, 1), ALL[index])


def test_a_row_is_computed_once():
    network, cache = Network(), FeatureCache(1)
    for index in ([3, 1], [1, 2, 3], [2, 1]):
        assert_features(network.features(cache, index), index)
    assert network.asked == [[3, 1], [2]]
    assert len(cache) == 3


def test_what_does_not_fit_is_computed_each_time():
    network, cache = Network(), FeatureCache(2.5 * ROW_BYTES / 2**30)
    for _ in range(2):
        assert_features(network.features(cache, [5, 6, 7]), [5, 6, 7])
    assert network.asked == [[5, 6, 7], [7]]


def test_rows_of_padding_are_never_kept():
    network, cache = Network(), FeatureCache(1)
    for _ in range(2):
        assert_features(network.features(cache, [4, -1]), [4, -1])
    assert network.asked == [[4, -1], [-1]]
