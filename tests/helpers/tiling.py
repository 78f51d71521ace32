"""Compares tiles that are scored together with each scored alone."""

import torch

from lightning_ad.data.tiling import Tiles
from lightning_ad.methods.tiled_scoring import score_by_tiles


def assert_together_as_alone(module, together):
    """Scores an image of five tiles of 64 px; `module` must take `together` of them at a time."""
    tiles = Tiles.of((64, 192), 64, 32)
    image = torch.rand(1, 3, 64, 192, generator=torch.Generator().manual_seed(3))
    ignore = torch.zeros(1, 64, 192, dtype=torch.bool)
    ignore[..., 20:30, 90:120] = True
    sizes = []
    hook = module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    module.tiles = tiles
    try:
        with torch.no_grad():
            for hidden in (None, ignore):
                sizes.clear()
                whole = module.eval().score(image, hidden)
                assert sizes == [together] * (5 // together) + [5 % together] * (5 % together > 0)
                alone = score_by_tiles(module, image, tiles, 1, hidden)
                torch.testing.assert_close(whole.score, alone[1])
                shown = torch.ones_like(ignore) if hidden is None else ~hidden
                torch.testing.assert_close(whole.map[shown], alone[0][shown])
            first, whole = module(tiles.cut(image, 0)), module.score(image)
        torch.testing.assert_close(
            whole.map[..., :32], first.map[..., :32]
        )  # where no other tile is
    finally:
        hook.remove()
        module.tiles = None
