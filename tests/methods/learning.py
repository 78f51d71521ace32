"""Small learned methods on a small tree, and a fit."""

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_ad.data.datamodule import AnomalyDataModule
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
    return PFM(**SMALL_PFM, **more)


METHODS = pytest.mark.parametrize("build", [draem, pfm])


def data(trees, **more):
    options = {
        "layout": "mvtec",
        "category": "bottle",
        "image_size": 64,
        "batch_size": 4,
        "num_workers": 0,
    }
    return AnomalyDataModule(root=str(trees["even"]), **{**options, **more})


def fit(model, datamodule, epochs=2, **more):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        **{**quiet, "accelerator": "cpu", "max_epochs": epochs, "num_sanity_val_steps": 0, **more}
    )
    trainer.fit(model, datamodule=datamodule)
    return trainer


def trained(module):
    return [p.detach() for p in module.parameters() if p.requires_grad]
