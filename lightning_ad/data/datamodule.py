"""The one AnomalyDataModule: every method, learned or fit-only, reads its data here."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from lightning_ad.data.checking import Fault, OnError, check_or_skip
from lightning_ad.data.dataset import AnomalyDataset
from lightning_ad.data.depth import (
    EIGHT,
    Depth,
    check_depth,
    check_highest,
    check_setting,
    find_bits,
)
from lightning_ad.data.geometry import Geometry, Size
from lightning_ad.data.ignoring import with_ignored
from lightning_ad.data.layouts import find_samples, labels_come_from_masks, prepare_layout
from lightning_ad.data.layouts._files import good_samples
from lightning_ad.data.listing import noting_passed_over
from lightning_ad.data.mask_survey import MaskSurvey
from lightning_ad.data.reading import LEGACY, MEGAPIXELS, Bits, limit_size
from lightning_ad.data.resizing import Resize
from lightning_ad.data.sample import Batch, MaskReading, Sample, Split
from lightning_ad.data.sampler import KeySampler
from lightning_ad.data.splitting import HoldOut, Validation, by_split
from lightning_ad.data.synthesis import Synthesis
from lightning_ad.data.textures import texture_source
from lightning_ad.data.tiling import Tiles
from lightning_ad.data.workers import (
    begin_worker,
    check_open_files,
    collate_in_worker,
    worker_count,
)
from lightning_ad.errors import DataError, UsageError
from lightning_ad.system.names import file_name
from lightning_ad.system.paths import existing, places_of, user_path, with_homes

YOUR_OWN = ("folder", "table")  # layouts of no data set in particular


@runtime_checkable
class Method(Protocol):
    """The part of a method that the data module needs to load images for it.

    Attributes:
        synthesis: the synthetic anomalies to draw for training images, or None.
        validation_synthesis: those to draw for held-out images.
        batches_kept: batches of this process that a resumed fit has observed and need not read.
    """

    synthesis: Synthesis | None
    validation_synthesis: Synthesis

    @property
    def batches_kept(self) -> int: ...


class AnomalyDataModule(LightningDataModule):
    """Finds the samples of a data set and loads them.

    Args:
        layout: how the folders are arranged on disk; `lightning-ad datasets` lists the layouts.
        root: the folder of the data set.
        category: one of the data set's categories, if it has several; on the command line also
            `all`, or several with commas between them, for one run each.
        layout_options: further arguments of the layout, by name (mtd: train_list; folder: good,
            bad, masks, ...).
        train_folder: a folder of good images, searched to any depth, to train on instead of the
            layout's own; null for none. Held-out and test images stay those of the layout.
        image_size: [height, width], or one number: a square, or the shorter side if there is a
            center_crop.
        center_crop: [height, width] or one number, cut from the middle after the resize; null for
            none.
        resize: bilinear, bicubic or lanczos, antialiased as Pillow's; linear, not antialiased, as
            OpenCV's; in float32, without rounding to 8 bits. The longer side and the place of the
            crop are rounded as torchvision's. null for bilinear with both rounded down, as in runs
            before this could be set.
        tile: side in pixels of the square tiles by which images are learned and scored, for images
            too large to go through a network whole (docs/tiling.md); null for none.
        tile_overlap: overlap of neighbouring tiles in pixels; their maps are blended.
        batch_size: images a step on each process; with tiles, tiles in training and one image in
            the test.
        num_workers: processes that read images; null for one a core, at most 8. Beside a network on
            the CPU null means none, or a single one for tiles, unless synthetic anomalies are drawn
            (threads of the network's process read instead).
        validation: none; holdout, a seeded share of the training images; given, the layout's own
            validation set; fold, one of data.folds parts of the training images, those of
            scikit-learn's shuffled KFold.
        validation_share: the share of the training images that holdout takes.
        folds: parts of about equal size, at least 2.
        fold: the part that is held out, counted from 0.
        validation_anomalies: add a synthetic anomaly to each held-out good image too, for
            validation_AUROC.
        textures: a folder of photographs for synthetic anomalies (DTD); null for procedural noise.
        ignore: regions to ignore: an image for all, not black in the regions, or a folder with one
            for each image that has some, named as the image is under `root`. They are filled with
            the colours around them, and count neither for scores nor for metrics
            (docs/metrics.md).
        ignore_value: the value of ignored pixels in the true masks, 1 to 255; null for none. An
            image without a mask has none.
        on_error: stop at a file that cannot be used, and name it, before the start if no decoding
            is needed to find it; or skip: decode all files before the start and leave those out,
            and training images that are test images too. They are counted, and listed in
            skipped.csv.
        max_megapixels: the most that an image may have, in its file and after the resize: a small
            file may hold an image that fills the memory.
        bits: of the values in image files of 16 bits a channel, 8 to 16: cameras fill 10, 12 or 14
            of them. null: the fewest of 8, 10, 12, 14 and 16 that hold the training images' values.
            legacy: 16, and of colour only the upper 8 are read, as before this setting.
        mask_reading: bright: bright pixels of masks are defective, by the rule in docs/metrics.md;
            dark: the others are. legacy: as before this setting.
        seed: seed of the order, hold-out, folds and synthetic anomalies; the command line sets it
            from seed_everything.

    Attributes:
        arguments: what it was made with, by name.
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
        resize: Resize | None = "bilinear",
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
        on_error: OnError = "stop",
        max_megapixels: float = MEGAPIXELS,
        bits: Bits | None = None,
        mask_reading: MaskReading = "bright",
        seed: int = 0,
    ) -> None:
        given = dict(locals())
        super().__init__()
        # By the signature: a run's configuration is written from them, and must not miss one.
        self.arguments = {name: given[name] for name in signature(AnomalyDataModule).parameters}
        self.layout = layout
        self.root = existing(user_path(root))
        self.category = category
        self.layout_options = with_homes(layout_options or {})
        self.train_folder = _on_disk(train_folder)
        self.geometry = Geometry.of(image_size, center_crop, resize)
        self.tiles: Tiles | None = None
        if tile is not None:
            self.tiles = Tiles.of(self.geometry.output, tile, tile_overlap)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.validation = validation
        self.validation_anomalies = validation_anomalies
        self.textures = _on_disk(textures)
        self.ignore = _on_disk(ignore)
        self.ignore_value = ignore_value
        self.on_error: OnError = on_error
        self.max_megapixels = max_megapixels
        self.bits = bits
        self.mask_reading: MaskReading = mask_reading
        self.seed = seed
        self.samples: dict[Split, list[Sample]] = {}
        self.skipped: list[Fault] = []
        self._labelled_test: list[Sample] = []
        self._mask_survey: MaskSurvey | None = None
        self._check_settings()
        limit_size(max_megapixels)
        self.hold_out = HoldOut(validation, validation_share, folds, fold, seed)

    def _check_settings(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"data.batch_size: expected at least 1, got {self.batch_size}")
        if self.num_workers is not None and self.num_workers < 0:
            raise UsageError(f"data.num_workers: expected at least 0, got {self.num_workers}")
        check_setting(self.bits)
        if not 0 < self.max_megapixels < math.inf:
            raise UsageError(
                f"data.max_megapixels: expected a positive number, got {self.max_megapixels}"
            )
        if self.validation_anomalies and self.validation == "none":
            raise UsageError(
                "data.validation_anomalies needs held-out images: set data.validation, to holdout "
                "say"
            )

    @property
    def title(self) -> str:
        """`<data set>-<category>`, or the data set alone; your own data are named by the folder."""
        return "-".join(self._names)

    @property
    def file_title(self) -> str:
        """The title as a part of the name of a file or a folder."""
        return "-".join(map(file_name, self._names))

    @property
    def _names(self) -> list[str]:
        names = [self.layout]
        if self.layout in YOUR_OWN:
            names = [self.root.resolve().name]
        if self.category:
            names.append(self.category)
        return names

    @property
    def input_size(self) -> tuple[int, int]:
        """[h, w] of the network's input: an image, or a tile."""
        if self.tiles is None:
            return self.geometry.output
        return self.tiles.shape

    @property
    def preprocessing(self) -> str:
        """How images are preprocessed, in words: scores of images preprocessed otherwise differ."""
        size = f"resize {self.geometry.resize_to}, crop {self.geometry.crop_to}"
        if self.geometry.interpolation not in (None, "bilinear"):
            size = f"{self.geometry.interpolation} {size}"
        tiles = "none"
        if self.tiles is not None:
            tiles = f"{self.tiles.shape} overlapping by {self.tiles.overlap}"
        deep = ""
        if self.bits not in (None, LEGACY, EIGHT):
            deep = f", {self.bits} bits"
        ignored = []
        if self.ignore:
            ignored.append("files")
        if self.ignore_value is not None:
            ignored.append(str(self.ignore_value))
        return f"{size}, tiles {tiles}, ignored {' and '.join(ignored) or 'nothing'}{deep}"

    def prepare_data(self) -> None:
        """Draws the demo images if they are asked for and missing (on one process)."""
        prepare_layout(self.layout, self.root)

    def setup(self, stage: str | None = None) -> None:
        """Finds the samples of all splits; decodes images of 16 bits alone, to find their depth.

        For `test` alone, no training image is needed. For other stages than `test` (and None, all
        of them), test samples have no label, kind of defect or mask; if a mask says what is
        ignored, it says that alone.

        Raises:
            DataError: if a split that is needed is empty, or the tree is not as the layout says.
            UsageError: for an unknown layout, category or option.
        """
        if not self.samples:
            self._find(for_test_alone=stage == "test")
            self._labelled_test = self.samples["test"]
        if stage in (None, "test"):
            self.samples["test"] = self._labelled_test
        else:
            self.samples["test"] = [sample.without_label() for sample in self._labelled_test]
        if stage != "test" and not self.samples["train"]:
            raise DataError(
                f"no training image in {self.root}: a method learns from good images, and there is "
                "none"
            )

    def _find(self, for_test_alone: bool) -> None:
        own = self._find_in_layout()
        added: list[Sample] = []
        if self.train_folder is not None and not for_test_alone:
            added = self._find_in_folder(Path(self.train_folder))
        added_paths = {sample.path for sample in added}
        samples = _without(own, added) + added
        needed = self._needed_splits(for_test_alone)
        samples, self.skipped = check_or_skip(samples, self.on_error, needed, self.geometry)
        self.samples = by_split([sample for sample in samples if sample.path not in added_paths])
        if not for_test_alone:
            train, held = self.hold_out.split(self.samples["train"], self.samples["validation"])
            if self.train_folder is not None:
                train = [sample for sample in samples if sample.path in added_paths]
            self.samples["train"] = train
            self.samples["validation"] = held
        self._find_depth(for_test_alone)
        _warn_of_missing_kind(self.samples["test"])

    def _find_depth(self, for_test_alone: bool) -> None:
        """Finds `bits` if they were not given, and checks that all images have them."""
        if self.bits == LEGACY:
            return
        tested = [sample.path for sample in self.samples["test"]]
        good: list[str] = []
        if not for_test_alone:
            learned = self.samples["train"] + self.samples["validation"]
            good = [sample.path for sample in learned]
        if self.bits is None:
            self.bits, depth = find_bits(good or tested)
            check_depth(tested, self.bits, depth)
        else:
            check_highest(Depth.of(good), int(self.bits))
            check_depth(tested, int(self.bits), None)

    def _find_in_layout(self) -> list[Sample]:
        samples = find_samples(self.layout, self.root, self.category, self.layout_options)
        if self.ignore_value is not None and labels_come_from_masks(self.layout):
            raise UsageError(
                f"data.ignore_value is not for the layout '{self.layout}', in which images whose "
                "mask is not black are defective; name ignored regions by data.ignore"
            )
        found = with_ignored(
            samples,
            self.root,
            self.ignore,
            self.ignore_value,
            allow_no_match=self.category is not None,
        )
        return [replace(sample, mask_reading=self.mask_reading) for sample in found]

    def _find_in_folder(self, folder: Path) -> list[Sample]:
        with noting_passed_over():
            samples = good_samples(folder, "train", recursive=True)
        return with_ignored(samples, folder, self.ignore, self.ignore_value, allow_no_match=True)

    def _needed_splits(self, for_test_alone: bool) -> set[Split]:
        if for_test_alone:
            return {"test"}
        if self.validation == "given":
            return {"train", "validation", "test"}
        return {"train", "test"}

    @property
    def labelled_test(self) -> list[Sample]:
        """The test images with their labels and masks, whatever the stage of `setup`."""
        return self._labelled_test

    @property
    def mask_survey(self) -> MaskSurvey:
        """What the masks of the test images say; they are read once, after `setup`."""
        if self._mask_survey is None:
            self._mask_survey = MaskSurvey.of(self._labelled_test, self.geometry)
        return self._mask_survey

    def counts(self) -> dict[str, int]:
        """Counts the images of each split, and the test images by label."""
        found: dict[str, int] = {split: len(samples) for split, samples in self.samples.items()}
        anomalous = sum(sample.label for sample in self._labelled_test)
        found["test_good"] = len(self._labelled_test) - anomalous
        found["test_anomalous"] = anomalous
        found["skipped"] = len(self.skipped)
        return found

    @property
    def method(self) -> Method | None:
        """The method being trained; None without a trainer, or if it trains something else."""
        if self.trainer is None:
            return None
        module = self.trainer.lightning_module
        if isinstance(module, Method):
            return module
        return None

    def train_dataloader(self) -> DataLoader[Batch]:
        """Loads the training images, shuffled by (seed, epoch), with the method's anomalies."""
        method = self.method
        if method is None:
            return self._loader("train", None)
        return self._loader("train", method.synthesis)

    def val_dataloader(self) -> DataLoader[Batch] | list:
        """Loads the validation images; an empty list if there are none."""
        if not self.samples["validation"]:
            return []
        method = self.method
        if method is None:
            return self._loader("validation", None)
        if not self.validation_anomalies and method.synthesis is None:
            return self._loader("validation", None)
        return self._loader("validation", method.validation_synthesis)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Loads the test images, in the order of their names."""
        if not self.samples["test"]:
            raise DataError(f"no test image in {self.root}")
        return self._loader("test", None)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Loads the test images, which `setup("predict")` leaves without labels and masks."""
        return self.test_dataloader()

    def training_set(self, synthesis: Synthesis | None = None) -> AnomalyDataset:
        """Returns the training images, with recipes for the anomalies of a given synthesis."""
        return self.dataset("train", synthesis)

    def dataset(self, split: Split, synthesis: Synthesis | None = None) -> AnomalyDataset:
        """Returns the images of a split; test images are whole, others by tiles if there are."""
        textures = None
        if synthesis is not None:
            textures = texture_source(self.textures, self.geometry.interpolation or "bilinear")
        tiles = self.tiles
        if split == "test":
            tiles = None
        return AnomalyDataset(
            self.samples[split], self.geometry, synthesis, textures, self.seed, tiles, self.bits
        )

    def _loader(self, split: Split, synthesis: Synthesis | None) -> DataLoader[Batch]:
        data = self.dataset(split, synthesis)
        device = torch.device("cpu")
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
        batch_size = self.batch_size
        if split == "test" and self.tiles is not None:
            batch_size = 1
        workers = self.num_workers
        if workers is None:
            workers = worker_count(device, synthesis is not None, self.tiles is not None)
        check_open_files(workers)
        return DataLoader(
            data,
            batch_size=batch_size,
            sampler=self._sampler(data, split),
            num_workers=workers,
            collate_fn=collate_in_worker,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0 and split != "test",
            worker_init_fn=partial(begin_worker, self.max_megapixels),
        )

    def _sampler(self, data: AnomalyDataset, split: Split) -> KeySampler:
        """Makes the sampler of this process, at the place from which a resumed run goes on."""
        rank = 0
        processes = 1
        if self.trainer is not None:
            rank = self.trainer.global_rank
            processes = self.trainer.world_size
        is_training = split == "train"
        if is_training and len(data) < processes:
            raise UsageError(
                f"{len(data)} training images are too few for {processes} processes; lower "
                "trainer.devices"
            )
        kept = self._batches_kept() if is_training else 0
        sampler = KeySampler(
            data,
            shuffle=is_training,
            seed=self.seed,
            rank=rank,
            world_size=processes,
            tiles=data.tiles_per_image,
            start=kept * self.batch_size,
        )
        if self.trainer is not None:
            # In a resumed run, workers ask for their first rows before Lightning sets the epoch.
            epochs: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(epochs.processed)
        if is_training:
            sampler.leave_out_once(self._batches_done(sampler.num_samples) * self.batch_size)
        return sampler

    def _batches_done(self, rows: int) -> int:
        """Returns how many batches of the current epoch, of `rows`, a resumed run has consumed."""
        if self.trainer is None or not self.trainer.fit_loop.restarting:
            return 0
        # The batch after which the run was saved is processed, but not yet completed.
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        batches = -(-rows // self.batch_size)
        return progress.processed % batches

    def _batches_kept(self) -> int:
        method = self.method
        if method is None:
            return 0
        return method.batches_kept


def _on_disk(path: str | None) -> str | None:
    """Returns a path with its home and the letters of its names as they are on the disk."""
    if path is None:
        return None
    return str(existing(user_path(path)))


def _without(samples: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
    """Returns the samples whose image is none of others, however the paths are spelled."""
    if not others:
        return list(samples)
    places = {*places_of(sample.path for sample in others)}
    own = places_of(sample.path for sample in samples)
    return [sample for sample, place in zip(samples, own, strict=True) if place not in places]


def _warn_of_missing_kind(test: Sequence[Sample]) -> None:
    """Warns if no test image is good, or none anomalous."""
    labels = {sample.label for sample in test}
    for kind, label in (("good", 0), ("anomalous", 1)):
        if label not in labels:
            rank_zero_warn(f"the test set has no {kind} image: metrics that need one are n/a")
