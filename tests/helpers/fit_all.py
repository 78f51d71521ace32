"""Fits and tests methods on several processes.

    fit_all.py --trainer.devices PROCESSES ROOT FOLDER

FOLDER holds their options, by name, in cases.pt; their summaries and metrics go to found.pt.
"""

import sys
from pathlib import Path

import torch
from contract import summary, trainer, tree_data
from small import make_small

from lightning_ad.statistics import coreset

if __name__ == "__main__":
    coreset.POOL = 32  # so that a selection takes several rounds
    processes, root, folder = int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    found = {}
    for method, options in torch.load(folder / "cases.pt").items():
        module = make_small(method, **options)
        run = trainer(folder, devices=processes, strategy="ddp")
        run.fit(module, datamodule=tree_data(root, batch_size=2))
        run.test(module, datamodule=tree_data(root, batch_size=2), verbose=False)
        metrics = {k: float(v) for k, v in run.callback_metrics.items()}
        found[method] = {"summary": summary(module), "metrics": metrics}
    if run.is_global_zero:
        torch.save(found, folder / "found.pt")
