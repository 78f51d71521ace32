"""Measures how long DRAEM waits for the loader, with noise made in the loader and on the device.

    python benchmarks/draem_wait.py --textures dtd/images              # the released widths
    python benchmarks/draem_wait.py --textures dtd/images --width 16   # a small network waits more

Prints the waiting as a share of an epoch. The images are the demo's, drawn into a temporary folder;
the first epoch, in which workers start, does not count.
"""

import argparse
import logging
import tempfile

import torch
from lightning.pytorch import Trainer

from lightning_ad.callbacks.throughput import ThroughputMonitor
from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.methods import DRAEM


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--textures", default=None)
    parser.add_argument(
        "--width", type=int, default=None, help="of both networks; left out: 128 and 64"
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=10, help="of 8, an epoch")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--precision", default="32-true")
    wish = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    widths = (wish.width, wish.width) if wish.width else (128, 64)
    with tempfile.TemporaryDirectory() as root:
        for noise in ("loader", "device"):
            torch.manual_seed(0)
            data = AnomalyDataModule(
                root=root, image_size=wish.size, textures=wish.textures, num_workers=wish.workers
            )
            trainer = Trainer(
                max_epochs=2,
                limit_train_batches=wish.batches,
                precision=wish.precision,
                callbacks=[ThroughputMonitor()],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(DRAEM(*widths, noise=noise), datamodule=data)
            seen = trainer.callback_metrics
            workers = data.workers(trainer.strategy.root_device, True)
            rate = f"{seen['images_per_second']:.2f}"
            print(
                f"noise: {noise:<7} workers: {workers}  widths: {widths}  "
                f"images a second: {rate}  waiting: {seen['wait_share']:.1%}"
            )


if __name__ == "__main__":
    main()
