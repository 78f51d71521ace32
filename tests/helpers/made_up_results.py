"""Results of a run that never was: maps on disk, pictures, rows and metrics."""

import math
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from lightning_ad.evaluation.catalogue import METRICS, PLOTS
from lightning_ad.reporting.maps import write_map
from lightning_ad.reporting.run_images import RunImages
from lightning_ad.reporting.run_results import RunResults
from lightning_ad.reporting.tables import ImageResult

CURVE = ([0.0, 0.1, 1.0], [0.0, 0.9, 1.0])


def made_up_images(folder, number, size=64, paths=None):
    """Good and anomalous images in turn, with maps in `folder` and pictures in memory."""
    rng = np.random.default_rng(0)
    rows = []
    pictures = {}
    for i in range(number):
        path = paths[i] if paths else f"/data/test/{i:03}.png"
        map = ndimage.gaussian_filter(rng.normal(size=(size, size)), 4).astype(np.float32)
        write_map(folder / f"maps/{i}.png", torch.from_numpy(map))
        label = i % 2
        row = ImageResult(
            path,
            label,
            ["good", "hole"][label],
            score=float(map.max()),
            p_value=0.5,
            anomalous=bool(i % 3),
            map_path=f"maps/{i}.png",
        )
        rows.append(row)
        image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        pictures[path] = image, (map > 0.8 * map.max()) & bool(label)
    return RunImages(rows, lambda row: pictures[row.path], folder)


def made_up_results(rows, **changes):
    """Results of these rows, in which everything has a value; `changes` replaces some."""
    filled = RunResults(
        method="PatchCore",
        data_set="<b>mtd",
        metrics=dict.fromkeys(METRICS, 0.9),
        rows=rows,
        plots=dict.fromkeys(PLOTS, CURVE),
        training={"train/<loss>": ([0.0, 1.0, 2.0], [3.0, 2.0, math.nan])},
        facts={"method": "A & B"},
        config="a: <b>",
        image_size=(64, 64),
        counts={"train": 5, "test_good": 3, "test_anomalous": 4},
    )
    return replace(filled, **changes)
