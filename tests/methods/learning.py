"""Small learned methods on a small tree, and a fit."""

import pytest
import torch
from small_fits import trainer, tree_data

from lightning_ad.methods import DRAEM, PFM

SMALL_PFM = {
    **{"source": "squeezenet1_1", "target": "mobilenet_v2", "latents": (8, 8, 8)},
    **{"source_weights": None, "target_weights": None},
}


def draem(**more):
    torch.manual_seed(0)
    return DRAEM(8, 8, **more)


def pfm(**more):
    torch.manual_seed(0)
    return PFM(**{**SMALL_PFM, **more})


METHODS = pytest.mark.parametrize("build", [draem, pfm])


def data(trees, **more):
    return tree_data(trees["even"], **more)


def fit(model, datamodule, epochs=2, **more):
    options = {"enable_checkpointing": False, "num_sanity_val_steps": 0, **more}
    run = trainer(max_epochs=epochs, **options)
    run.fit(model, datamodule=datamodule)
    return run


def trained(module):
    return [p.detach() for p in module.parameters() if p.requires_grad]
