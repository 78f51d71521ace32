"""SPADE (Cohen & Hoshen 2020, arXiv 2005.02357): the nearest good images, then the nearest of their pixels."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_ad.data.sample import Prediction
from lightning_ad.errors import UsageError, UserError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.maps import score_map, spatial_mean
from lightning_ad.features.patches import patch_features
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.statistics.neighbours import nearest_neighbours
from lightning_ad.system.distributed import sum_over_processes
from lightning_ad.system.memory import fits
from lightning_ad.system.row_store import RowStore, share_rows

BLOCK_BYTES = 64 * 2**20  # of gallery features that are read at a time


class SPADE(FitOnlyModule):
    """Defaults are those of the released code but for `k_pixel`, which is the paper's K.

    With one K for both stages, the paper's 50 is best for maps (pixel AUROC), and a few are best for image scores.
    To score is one matrix product of the image's pixels with those of `k_pixel` training images for each level: time
    grows with `k_pixel`, not with the training set.

    Args:
        backbone: a torchvision model, or timm/<name>.
        weights: the name of the backbone's weights, the path of a state dict, or null for random ones.
        layers: node names: the levels of the pyramid, the finest first, and last the layer whose average is the
            image's feature, which may also be one of the levels; null for the last blocks at strides 4, 8 and 16, and
            the last of all (layer1 to layer4 of a ResNet).
        k_image: the image score is the mean distance to this many nearest training images.
        k_pixel: the gallery of an image is all pixels of this many nearest training images.
        neighbours: a pixel's score is the mean distance to this many nearest pixels of the gallery (kappa).
        distance: plain Euclidean distances, as released, or squared, as in the paper.
        pyramid: average of the maps that the levels give each by itself, as released; concatenate, one map by the
            features of all levels at the finest one's pixels, as in the paper.
        sigma: of the Gaussian that smooths the map, in pixels; 0 for none.
        storage: of the gallery: float32, or float16, which takes half the room.
        memory_gb: a gallery of more GiB a process stays in a file; null for no limit.
    """

    features: Tensor
    grids: Tensor

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        weights: str | None = "IMAGENET1K_V1",
        layers: list[str] | None = None,
        k_image: int = 5,
        k_pixel: int = 50,
        neighbours: int = 1,
        distance: Literal["plain", "squared"] = "plain",
        pyramid: Literal["average", "concatenate"] = "average",
        sigma: float = 4.0,
        storage: Literal["float32", "float16"] = "float32",
        memory_gb: float | None = None,
    ) -> None:
        super().__init__()
        counts = {"k_image": k_image, "k_pixel": k_pixel, "neighbours": neighbours}
        least = {**dict.fromkeys(counts, 1), "sigma": 0, "memory_gb": 0}
        for name, came in {**counts, "sigma": sigma, "memory_gb": memory_gb or 0}.items():
            if came < least[name]:
                raise UsageError(f"model.{name} must be at least {least[name]}, {came} came")
        if layers is not None and len(layers) < 2:
            raise UsageError(
                f"model.layers must name the levels and the image feature's layer, {layers} came"
            )
        self.save_hyperparameters()
        self.backbone = Backbone(backbone, weights, layers, strides=(4, 8, 16, None))
        self.k_image, self.k_pixel, self.neighbours = k_image, k_pixel, neighbours
        self.distance, self.sigma, self.storage = distance, sigma, getattr(torch, storage)
        count = len(self.backbone.layers) - 1
        self.groups = (
            [[level] for level in range(count)] if pyramid == "average" else [[*range(count)]]
        )
        # One row for each training image: its levels' maps [h, w, C], one after another.
        self.gallery = RowStore(None if memory_gb is None else int(memory_gb * 2**30))
        self.register_dynamic_buffer("features", torch.empty(0, 0))
        self.register_buffer(
            "grids", torch.zeros(count, 3, dtype=torch.int64)
        )  # height, width, channels

    @property
    def memory_bytes(self) -> int | None:
        """That the gallery may take; None for no limit."""
        return self.gallery.memory_bytes

    def begin(self) -> None:
        """Room for all training images, on every process; where the gallery grows, what it holds comes first.

        Raises:
            UsageError: where it is to grow by images of another size.
        """
        *levels, last = self.backbone.shapes(*self.trainer.datamodule.input_size)
        grids = torch.tensor([(s.height, s.width, s.channels) for s in levels], device=self.device)
        before = self.images_before
        if before and not torch.equal(grids, self.grids):
            raise UsageError(
                f"the gallery is of maps of {self.grids[0, 0]}x{self.grids[0, 1]} pixels, and images of this size have "
                f"{grids[0, 0]}x{grids[0, 1]}: set data.image_size and data.center_crop as in the run that grows"
            )
        self.grids.copy_(grids)
        count = before + len(self.trainer.train_dataloader.dataset)
        self.gallery.resize(count, int(grids.prod(1).sum()), self.storage, keep=before)
        # No buffer yet: DistributedDataParallel gives all processes the first one's buffers at every step.
        self._image_features = torch.empty(count, last.channels)
        if before:
            self._image_features[:before] = self.features[:before]
        self._observed = torch.empty(0, dtype=torch.int64)

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Keeps the maps of a batch, and their image features; the same bits on any number of processes."""
        rows = index.cpu() + self.images_before
        *maps, last = self.backbone(image)
        self._image_features[rows] = spatial_mean(last).cpu()
        flat = torch.cat([m.permute(0, 2, 3, 1).flatten(1) for m in maps], 1)
        self.gallery[rows] = flat.to("cpu", self.storage)
        self._observed = torch.cat([self._observed, rows])

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]:
        """The maps and features of the images that this process has observed, in blocks."""
        each = max(1, BLOCK_BYTES * len(self.gallery) // max(1, self.gallery.nbytes))
        for rows in self._observed[first:].split(each):
            yield {
                "rows": rows.clone(),
                "maps": self.gallery[rows],
                "features": self._image_features[rows],
            }

    def restore(self, piece: dict[str, Any]) -> None:
        """Takes such a block."""
        self.gallery[piece["rows"]], self._image_features[piece["rows"]] = (
            piece["maps"],
            piece["features"],
        )
        self._observed = torch.cat([self._observed, piece["rows"]])

    def complete(self) -> None:
        """Gives every process the rows of the others; the order is that of the images."""
        share_rows([self.gallery, self._image_features], self._observed, self.device)
        count = self.images_before + sum_over_processes(len(self._observed), self.device)
        if count < len(self.gallery):  # suspicious images were left out
            self.gallery.resize(count, int(self.grids.prod(1).sum()), self.storage, keep=count)
        self.gallery.to(self.device)
        self.features = self._image_features[:count].to(self.device, copy=True)
        del self._image_features, self._observed
        if count < max(self.k_image, self.k_pixel):
            rank_zero_info(
                f"There are {count} training images: a model.k_image of {self.k_image} and a model.k_pixel of "
                f"{self.k_pixel} take at most all of them."
            )

    def stages(self, plan: Plan) -> list[Stage]:
        """The gallery is held from the first image on, unless it goes to a file."""
        *levels, _ = self.backbone.shapes(plan.height, plan.width)
        numbers = sum(level.channels * level.height * level.width for level in levels)
        size = self.storage.itemsize * plan.world * plan.images * numbers
        held = float(size if fits(size, plan.memory_bytes) else 0)
        return [
            Stage("Reading images", held),
            Stage("Testing", 3 * held + 2 * BLOCK_BYTES),  # the checkpoint is loaded beside it
        ]

    @property
    def compile_targets(self) -> list[nn.Module]:
        """The backbone."""
        return [self.backbone.body]

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Scores are distances, at least 0.

        `nearest` is the gallery pixel of the finest level that is nearest to the pixel where the map is highest.
        """
        self.require_fitted()
        *maps, last = self.backbone(image)
        with torch.autocast(image.device.type, enabled=False):  # distances and maps in float32
            wanted = min(max(self.k_image, self.k_pixel), len(self.features))
            squared, images = nearest_neighbours(spatial_mean(last), self.features, wanted)
            score = self._distances(squared[:, : self.k_image]).mean(1)
            maps = [m.float() for m in maps]
            return self._score(maps, images[:, : self.k_pixel], score, image.shape[2:], ignore)

    def leave_one_out(self, image: Tensor, index: Tensor, ignore: Tensor | None = None) -> Tensor:
        """Exact: the image itself is left out of those that are nearest to it. Image features come from the fit.

        Raises:
            UserError: where there is no other training image.
        """
        if len(self.features) <= self.tiles_per_image:
            raise UserError("there is one training image, and none to compare it with; add some")
        tiles = self.tiles_per_image  # of one image, all of which are left out
        count = min(self.k_image, len(self.features) - tiles)
        number = self.images_before + index
        with torch.autocast(image.device.type, enabled=False):
            squared, images = nearest_neighbours(
                self.features[number], self.features, count + tiles
            )
        others = images // tiles != number[:, None] // tiles
        kept = others & (others.cumsum(1) <= count)  # itself may be farther than its duplicates
        return self._distances(squared)[kept].view(-1, count).mean(1)

    def _score(
        self,
        maps: list[Tensor],
        images: Tensor,
        score: Tensor,
        size: torch.Size,
        ignore: Tensor | None,
    ) -> Prediction:
        """The maps [B, C_l, h_l, w_l] against the pixels of the training images `images` [B, k]."""
        together, nearest = [], []
        for group in self.groups:
            queries = patch_features([maps[level] for level in group], 1, None, None)
            height, width = maps[group[0]].shape[2:]
            grid = queries.new_empty(len(queries), height, width)
            found = images.new_empty(len(queries), height * width)
            for k, query in enumerate(queries):
                squared, pixels = self._search(query, group, images[k])
                grid[k], found[k] = (
                    self._distances(squared).mean(1).view(height, width),
                    pixels[:, 0],
                )
            together.append(score_map(grid, *size, self.sigma, ignore))
            nearest.append(found)
        map = torch.stack(together).mean(0)
        return Prediction(map, score, self._positions(map, nearest[0], maps[0].shape[2:]))

    def _search(self, queries: Tensor, group: list[int], images: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest gallery pixels of `images` [k] to `queries` [P, D], by the features of the levels in `group`.

        Returns:
            Squared distances [P, neighbours], ascending, and pixels int64: counted through the grids of all images.
        """
        area = int(self.grids[group[0], :2].prod())
        squared, pixels = queries.new_empty(len(queries), 0), images.new_empty(len(queries), 0)
        for some in images.split(max(1, BLOCK_BYTES // (4 * area * queries.shape[1]))):
            bank = patch_features(
                [self._read(level, some) for level in group], 1, None, None
            ).flatten(0, 1)
            distances, found = nearest_neighbours(queries, bank, min(self.neighbours, len(bank)))
            squared = torch.cat([squared, distances], 1)
            pixels = torch.cat([pixels, some[found // area] * area + found % area], 1)
            squared, order = squared.topk(min(self.neighbours, squared.shape[1]), largest=False)
            pixels = pixels.gather(1, order)
        return squared, pixels

    def _read(self, level: int, images: Tensor) -> Tensor:
        """The maps [k, C, h, w] of training images, on the device of `images`."""
        height, width, channels = self.grids[level].tolist()
        begin = int(self.grids[:level].prod(1).sum())
        columns = slice(begin, begin + height * width * channels)
        part = (
            self.gallery[images.to(self.gallery.blocks[0].device), columns]
            .to(images.device)
            .float()
        )
        return part.view(-1, height, width, channels).permute(0, 3, 1, 2)

    def _positions(self, map: Tensor, found: Tensor, grid: torch.Size) -> Tensor:
        """Training image, row and column [B, 3] of the gallery pixels `found` [B, P] where the map is highest."""
        peak = map.flatten(1).argmax(1)
        row, column = (
            peak // map.shape[2] * grid[0] // map.shape[1],
            peak % map.shape[2] * grid[1] // map.shape[2],
        )
        pixel = found.gather(1, (row * grid[1] + column)[:, None])[:, 0]
        height, width, _ = self.grids[0].tolist()
        return torch.stack(
            [pixel // (height * width), pixel % (height * width) // width, pixel % width], 1
        )

    def _distances(self, squared: Tensor) -> Tensor:
        return squared.sqrt() if self.distance == "plain" else squared
