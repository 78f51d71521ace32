"""Small data modules and quiet trainers, for tests that fit a method without the command line."""

from lightning.pytorch import Trainer

from lightning_ad.data.datamodule import AnomalyDataModule


def tree_data(root, **options):
    """The tiny MVTec tree of conftest: 7 good images train, 3 good and 4 anomalous ones test."""
    tree = {
        "layout": "mvtec",
        "root": str(root),
        "category": "bottle",
        "image_size": 64,
        "batch_size": 4,
        "num_workers": 0,
    }
    return AnomalyDataModule(**{**tree, **options})


def trainer(folder=None, **options):
    """A trainer of one epoch on the CPU, without a logger, a progress bar and a summary."""
    defaults = {
        "default_root_dir": folder,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
    }
    return Trainer(**{**defaults, **options})
