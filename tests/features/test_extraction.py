"""How images go through a network is chosen by device, blocks and kind of network."""

import pytest
import torch
from torch import nn

from lightning_ad.features.backbone import Backbone
from lightning_ad.features.extraction import FixedBlocks, FusedMaps, OneThreadEach, WholeBatch

LAYERS = ["features.3", "features.6"]


def backbone(**options):
    torch.manual_seed(0)
    return Backbone("squeezenet1_1", None, LAYERS, **options)


def images(count, height=64):
    return torch.rand(count, 3, height, 64, generator=torch.Generator().manual_seed(count))


def extractor(backbone, image):
    return backbone.extraction.extractor(backbone, image)


def test_one_image_on_each_thread_of_a_cpu():
    found = extractor(backbone(), images(3))
    assert isinstance(found, OneThreadEach)
    assert isinstance(found.network, FusedMaps)
    with_gradient = extractor(backbone(), images(3).requires_grad_())
    assert isinstance(with_gradient, OneThreadEach)
    assert not isinstance(with_gradient.network, FusedMaps)


@pytest.mark.parametrize(("blocks", "size"), [({"cpu": 4}, 4), ({}, 3), ({"cuda": 1}, 3)])
def test_blocks_of_one_size(blocks, size):
    found = extractor(backbone(blocks=blocks), images(3))
    assert isinstance(found, FixedBlocks)
    assert found.size == size


def test_no_image_and_a_trace_are_taken_as_they_come():
    plain = backbone()
    assert isinstance(extractor(plain, images(0)), WholeBatch)
    traced = torch.jit.trace(lambda image: tuple(plain(image)), images(2), check_trace=False)
    for ours, wanted in zip(traced(images(5)), plain.plain_maps(images(5)), strict=True):
        torch.testing.assert_close(ours, wanted)


def test_a_compiled_network_is_not_replaced():
    compiled = backbone()
    compiled.body.compile(backend="eager")
    found = extractor(compiled, images(2))
    assert isinstance(found, FixedBlocks)
    assert found.size == 1


def test_an_image_is_the_same_bits_in_any_block():
    network = nn.Conv2d(3, 4, 3)
    together = FixedBlocks(lambda image: [network(image)], 4)
    whole = together(images(7), list)[0]
    assert len(whole) == 7
    for row, image in enumerate(images(7)):
        assert torch.equal(together(image[None], list)[0][0], whole[row])


def test_a_part_of_the_images_goes_together_if_there_is_one_for_each_thread():
    seen = []

    def network(image):
        seen.append(len(image))
        return [image]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        maps = OneThreadEach(network, together=3)(images(8), list)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(maps[0], images(8))
    assert seen == [3, 3, 1, 1]


def test_what_is_made_of_the_maps_is_made_of_each_image():
    plain = backbone()

    def means(maps):
        assert all(len(level) == 1 for level in maps)
        return [level.mean((2, 3)) for level in maps]

    for ours, maps in zip(plain(images(3), means), plain(images(3)), strict=True):
        torch.testing.assert_close(ours, maps.mean((2, 3)))
