"""The one AnomalyDataModule: every method, learned or fit-only, reads its data here."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from lightning_ad.data.checking import Fault, stop_at_faults, usable
from lightning_ad.data.dataset import AnomalyDataset, begin_worker
from lightning_ad.data.geometry import Geometry, Size
from lightning_ad.data.ignoring import with_ignored
from lightning_ad.data.layouts import find_samples, layout_module, prepare_layout
from lightning_ad.data.layouts._files import good_samples
from lightning_ad.data.reading import MEGAPIXELS, limit_size
from lightning_ad.data.sample import GOOD, Batch, Sample, Split, collate
from lightning_ad.data.sampler import KeySampler
from lightning_ad.data.splitting import Validation, held_out
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.data.textures import NoiseTextures, TextureFolder, Textures
from lightning_ad.data.tiling import Tiles
from lightning_ad.errors import DataError, UsageError


class AnomalyDataModule(LightningDataModule):
    """Finds the samples of a data set and loads them.

    Args:
        layout: how the folders lie on disk; `lightning-ad datasets` lists them.
        root: the folder of the data set.
        category: one of the data set's categories, where it has several; on the command line also `all`, or several
            with commas between them, for one run each.
        layout_options: further arguments of the layout, by name (mtd: train_list; folder: good, bad, masks, ...).
        train_folder: a folder of good images, searched to any depth, that are trained on in place of the layout's own;
            null for none. What is held out and what is tested stay those of the layout.
        image_size: [height, width], or one number: a square, or the shorter side where a center_crop follows.
        center_crop: [height, width] or one number, cut from the middle after the resize; null for none.
        tile: side, in pixels, of the square tiles by which images are learned and scored, for those too large to go
            through a network whole (docs/tiling.md); null for none.
        tile_overlap: of neighbouring tiles, in pixels; their maps are blended.
        batch_size: images a step on each process; where there are tiles, tiles in training and one image in the test.
        num_workers: processes that read images; null for one a core, 8 at most. Beside a network on the CPU null is
            none, whose threads then read, or a single one for tiles (but where synthetic anomalies are to be drawn).
        validation: none; holdout, a seeded part of the training images; given, the layout's own validation set;
            fold, one of as many parts as data.folds of the training images, those of scikit-learn's shuffled KFold.
        validation_share: the part of the training images that holdout takes.
        folds: parts of about one size, at least 2.
        fold: which of them is held out, counted from 0.
        validation_anomalies: lay a synthetic anomaly on each held-out good image too, for validation_AUROC.
        textures: a folder of photographs for synthetic anomalies (DTD); null for procedural noise.
        ignore: regions that are not to be looked at: an image for all, not black there, or a folder of one for each
            image that has some, named as the image is under `root`. They are filled with the colours around them, and
            count neither for scores nor for metrics (docs/metrics.md).
        ignore_value: of ignored pixels in the true masks, 1 to 255; null for none. Images without a mask have none.
        on_error: stop, with its name, at a file that cannot be used, before the start where that can be told without
            decoding it; or skip: decode all files before the start, and leave those out, and training images that are
            tested too. They are counted, and listed in skipped.csv.
        max_megapixels: that an image may have: a small file may hold one that fills the memory.
        seed: of the order, hold-out, folds and synthetic anomalies; the command line sets it from seed_everything.
    """

    def __init__(
        self,
        layout: str = "demo",
        root: str = "data/demo",
        category: str | None = None,
        layout_options: dict[str, str | int | float | bool | None] | None = None,
        train_folder: str | None = None,
        image_size: Size = 256,
        center_crop: Size | None = None,
        tile: int | None = None,
        tile_overlap: int = 128,
        batch_size: int = 8,
        num_workers: int | None = None,
        validation: Validation = "none",
        validation_share: float = 0.1,
        folds: int = 5,
        fold: int = 0,
        validation_anomalies: bool = False,
        textures: str | None = None,
        ignore: str | None = None,
        ignore_value: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        max_megapixels: float = MEGAPIXELS,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.layout, self.root, self.category = layout, Path(root), category
        self.layout_options = layout_options or {}
        self.train_folder = train_folder
        self.geometry = Geometry.of(image_size, center_crop)
        self.tiles = None if tile is None else Tiles.of(self.geometry.output, tile, tile_overlap)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.validation, self.validation_share = validation, validation_share
        self.folds, self.fold = folds, fold
        self.validation_anomalies = validation_anomalies
        self.textures = textures
        self.ignore, self.ignore_value = ignore, ignore_value
        self.seed = seed
        self.on_error, self.max_megapixels = on_error, max_megapixels
        limit_size(max_megapixels)
        self.samples: dict[Split, list[Sample]] = {}
        self._truth: list[Sample] = []
        self.skipped: list[Fault] = []
        if batch_size < 1 or (num_workers or 0) < 0 or max_megapixels <= 0:
            told = f"{batch_size}, data.num_workers {num_workers} and data.max_megapixels {max_megapixels}"
            raise UsageError(f"data.batch_size {told} must be positive")
        if validation_anomalies and validation == "none":
            raise UsageError(
                "data.validation_anomalies needs held-out images: set data.validation, to holdout say"
            )
        if not 0 < validation_share < 1:
            raise UsageError(
                f"data.validation_share is {validation_share}; expected a share between 0 and 1"
            )
        if folds < 2 or not 0 <= fold < folds:
            raise UsageError(
                f"data.fold is {fold} of {folds} data.folds; expected 2 folds at least, counted from 0"
            )

    @property
    def title(self) -> str:
        """`<data set>-<category>`, or the data set alone where it has no categories; one's own data by its folder."""
        data_set = (
            Path(self.root).resolve().name if self.layout in ("folder", "table") else self.layout
        )
        return "-".join(part for part in (data_set, self.category) if part)

    @property
    def input_size(self) -> tuple[int, int]:
        """[h, w] of what a network sees: an image, or a tile."""
        return self.geometry.output if self.tiles is None else self.tiles.shape

    @property
    def view(self) -> str:
        """How images are seen, in words: scores of another view of them are not of one kind."""
        tiles = (
            "none"
            if self.tiles is None
            else f"{self.tiles.shape} overlapping by {self.tiles.overlap}"
        )
        ignored = [
            *["files"] * bool(self.ignore),
            *[str(v) for v in [self.ignore_value] if v is not None],
        ]
        size = f"resize {self.geometry.resize_to}, crop {self.geometry.crop_to}"
        return f"{size}, tiles {tiles}, ignored {' and '.join(ignored) or 'nothing'}"

    def workers(self, device: torch.device, draws: bool) -> int:
        """Processes that read images beside a network on a device, where synthetic anomalies are drawn or not."""
        if self.num_workers is not None:
            return self.num_workers
        if device.type == "cpu" and not draws:
            return 0 if self.tiles is None else 1
        return min(8, _cores())

    def prepare_data(self) -> None:
        """Draws the demo images where they are asked for and missing (on one process)."""
        prepare_layout(self.layout, self.root)

    def setup(self, stage: str | None = None) -> None:
        """Finds the samples of all splits; decodes no image. For `test` alone, no training image is needed.

        But for `test` (or all stages, None), test samples come without label, kind of defect or mask (where it tells
        what is ignored, it tells that alone).

        Raises:
            DataError: where a split that is needed is empty, or the tree is not as the layout says.
            UsageError: for an unknown layout, category or option.
        """
        if not self.samples:
            self._find(hold_out=stage != "test")
            self._truth = self.samples["test"]
        self.samples["test"] = (
            self._truth if stage in (None, "test") else [_blind(s) for s in self._truth]
        )
        if stage != "test" and not self.samples["train"]:
            raise DataError(
                f"no training image in {self.root}: a method learns from good images, and there is none"
            )

    def _find(self, hold_out: bool) -> None:
        found = find_samples(self.layout, self.root, self.category, self.layout_options)
        if self.ignore_value is not None and getattr(
            layout_module(self.layout), "LABELS_FROM_MASKS", False
        ):
            raise UsageError(
                f"data.ignore_value is not for the layout '{self.layout}', where images whose mask is not black are "
                "defective; name ignored regions by data.ignore"
            )
        found = with_ignored(
            found, self.root, self.ignore, self.ignore_value, self.category is not None
        )
        new: set[str] = set()
        if hold_out and self.train_folder is not None:
            folder = Path(self.train_folder)
            added = with_ignored(
                good_samples(folder, "train", True), folder, self.ignore, self.ignore_value, True
            )
            new = {sample.path for sample in added}
            found = [*(sample for sample in found if sample.path not in new), *added]
        if self.on_error == "stop":
            wanted = {
                "test",
                *(["train", *["validation"] * (self.validation == "given")] if hold_out else []),
            }
            stop_at_faults([s for s in found if s.split in wanted])
        else:
            found, self.skipped = usable(found)
        if self.skipped:
            first = self.skipped[0]
            rank_zero_warn(
                f"{len(self.skipped)} images are left out; the first is {first.sample.path}: {first.reason}"
            )
        by_split: dict[Split, list[Sample]] = {
            split: [s for s in found if s.split == split and s.path not in new]
            for split in ("train", "validation", "test")
        }
        if hold_out:
            parts = self.validation, self.validation_share, self.folds, self.fold, self.seed
            by_split["train"], by_split["validation"] = held_out(
                by_split["train"], by_split["validation"], *parts
            )
        if hold_out and self.train_folder is not None:
            by_split["train"] = [s for s in found if s.path in new]
        self.samples = by_split
        for split, kind in (("good", 0), ("anomalous", 1)):
            if all(s.label != kind for s in self.samples["test"]):
                rank_zero_warn(f"the test set has no {split} image: metrics that need one are n/a")

    def counts(self) -> dict[str, int]:
        """Images by split, and of the test set by label and truth."""
        test = self._truth
        return {
            **{split: len(samples) for split, samples in self.samples.items()},
            "test_good": sum(s.label == 0 for s in test),
            "test_anomalous": sum(s.label == 1 for s in test),
            "skipped": len(self.skipped),
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled by (seed, epoch); with recipes for synthetic anomalies where the method wants them."""
        return self._loader("train", shuffle=True, synthesis=self._synthesis("synthesis"))

    def val_dataloader(self) -> DataLoader[Batch] | list:
        """The validation images; an empty list where there are none."""
        if not self.samples["validation"]:
            return []
        wanted = self.validation_anomalies or self._synthesis("synthesis") is not None
        return self._loader(
            "validation", synthesis=self._synthesis("validation_synthesis") if wanted else None
        )

    def _synthesis(self, name: str) -> Synthesis | None:
        """What the method wants drawn, where there is a method."""
        return getattr(self.trainer and self.trainer.lightning_module, name, None)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test images, in the order of their names."""
        if not self.samples["test"]:
            raise DataError(f"no test image in {self.root}")
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The test images, without what is true of them."""
        return self.test_dataloader()

    def training_set(self, synthesis: Synthesis | None = None) -> AnomalyDataset:
        """The training images, with recipes for synthetic anomalies where a synthesis is given."""
        return self._data("train", synthesis)

    def _data(self, split: Split, synthesis: Synthesis | None) -> AnomalyDataset:
        textures = self._texture_source() if synthesis is not None else None
        tiles = None if split == "test" else self.tiles
        return AnomalyDataset(
            self.samples[split], self.geometry, synthesis, textures, self.seed, tiles
        )

    def _loader(
        self, split: Split, shuffle: bool = False, synthesis: Synthesis | None = None
    ) -> DataLoader[Batch]:
        data = self._data(split, synthesis)
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        if split == "train" and len(data) < world:
            raise UsageError(
                f"{len(data)} training images are too few for {world} processes; lower trainer.devices"
            )
        sampler = KeySampler(
            data,
            shuffle=shuffle,
            seed=self.seed,
            rank=rank,
            world_size=world,
            tiles=data.tiles_per_image,
        )
        if (
            self.trainer
        ):  # in a resumed run, workers ask for their first rows before Lightning tells the epoch
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
            if split == "train":
                sampler.done = self._batches_done(len(sampler)) * self.batch_size
                sampler.start = (
                    getattr(self.trainer.lightning_module, "batches_kept", 0) * self.batch_size
                )
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        workers = self.workers(device, synthesis is not None)
        return DataLoader(
            data,
            batch_size=1 if split == "test" and self.tiles is not None else self.batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0 and split != "test",
            worker_init_fn=partial(begin_worker, self.max_megapixels),
        )

    def _batches_done(self, rows: int) -> int:
        """Of the epoch in which a resumed run goes on; Lightning counts the batch after which it was saved later."""
        loop = self.trainer.fit_loop  # type: ignore[union-attr]
        progress = loop.epoch_loop.batch_progress.current
        return progress.processed % -(-rows // self.batch_size) if loop.restarting else 0

    def _texture_source(self) -> Textures:
        if self.textures is not None:
            return TextureFolder(self.textures)
        rank_zero_info(
            "No data.textures given: synthetic anomalies are filled with procedural noise. "
            "Photographs of textures (DTD) give better results."
        )
        return NoiseTextures()


def _blind(sample: Sample) -> Sample:
    """A sample of which the truth is not told; what is ignored in it is no secret."""
    kept = sample.mask_path if sample.ignore_value is not None else None
    return replace(sample, defect=GOOD, mask_path=kept, mask_threshold=255, saturations=())


def _cores() -> int:
    """The cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
