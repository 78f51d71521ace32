"""SPADE (Cohen & Hoshen 2020, arXiv 2005.02357): nearest good images, then their nearest pixels."""

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
from lightning_ad.methods.arguments import bytes_of, check_at_least
from lightning_ad.methods.feature_storage import resize_gallery
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.statistics.neighbours import nearest_neighbours
from lightning_ad.system.distributed import sum_over_processes
from lightning_ad.system.memory import fits
from lightning_ad.system.row_store import RowStore, share_rows

BLOCK_BYTES = 64 * 2**20  # of gallery features that are read at a time


class SPADE(FitOnlyModule):
    """Scores images by their nearest training images, and pixels by the nearest pixels of these.

    Defaults are those of the released code, except for `k_pixel`, which is the paper's K. With one
    K for both stages, the paper's 50 is best for maps (pixel AUROC), and a few are best for image
    scores. Scoring an image takes one matrix product of its pixels with those of `k_pixel` training
    images at each level: time grows with `k_pixel`, not with the training set.

    Args:
        backbone: a torchvision model, or timm/<name>.
        weights: the name of the backbone's weights, the path of a state dict, or null for random
            ones.
        layers: node names: the levels of the pyramid, the finest first, and last the layer whose
            average is the image's feature, which may also be one of the levels; null for the last
            blocks at strides 4, 8 and 16, and the last of all (layer1 to layer4 of a ResNet).
        k_image: the image score is the mean distance to this many nearest training images.
        k_pixel: the gallery of an image is all pixels of this many nearest training images.
        neighbours: a pixel's score is the mean distance to this many nearest pixels of the gallery
            (kappa).
        distance: plain Euclidean distances, as released, or squared, as in the paper.
        pyramid: average of one map for each level, as released; concatenate, one map of the
            features of all levels at the finest level's pixels, as in the paper.
        sigma: of the Gaussian that smooths the map, in pixels; 0 for none.
        storage: of the gallery: float32, or float16, which takes half the memory.
        memory_gb: a gallery of more GiB a process stays in a file; null for no limit.
    """

    features: Tensor
    grids: Tensor

    can_extend = True

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
        check_at_least(
            k_image=(k_image, 1),
            k_pixel=(k_pixel, 1),
            neighbours=(neighbours, 1),
            sigma=(sigma, 0),
            memory_gb=(memory_gb, 0),
        )
        if layers is not None and len(layers) < 2:
            raise UsageError(
                "model.layers must name the levels and the layer of the image feature, "
                f"got {layers}"
            )
        self.save_hyperparameters()
        self.backbone = Backbone(backbone, weights, layers, strides=(4, 8, 16, None))
        self.k_image = k_image
        self.k_pixel = k_pixel
        self.neighbours = neighbours
        self.distance = distance
        self.sigma = sigma
        self.storage = getattr(torch, storage)
        levels = list(range(len(self.backbone.layers) - 1))
        # Levels whose features are compared together; each group gives a map.
        self.groups = [levels]
        if pyramid == "average":
            self.groups = [[level] for level in levels]
        # One row for each training image: its levels' maps [h, w, C], one after another.
        self.memory_bytes = bytes_of(memory_gb)
        self.gallery = RowStore(self.memory_bytes)
        self.register_dynamic_buffer("features", torch.empty(0, 0))
        # Height, width and channels of each level.
        self.register_buffer("grids", torch.zeros(len(levels), 3, dtype=torch.int64))

    def begin(self) -> None:
        """Allocates the gallery for all training images; an incremental fit keeps what it holds.

        Raises:
            UsageError: if an incremental fit is given images of another size.
        """
        *levels, last = self.backbone.shapes(*self.training_set.input_size)
        sizes = [(level.height, level.width, level.channels) for level in levels]
        grids = torch.tensor(sizes, device=self.device)
        before = self.images_before
        if before:
            self._check_grids(grids)
        self.grids.copy_(grids)
        count = before + len(self.training_set)
        length = int(grids.prod(1).sum())
        resize_gallery(self.gallery, count, length, self.storage, keep=before)
        # Not in a buffer yet: at every step, DistributedDataParallel gives all processes the
        # buffers of the first.
        self._image_features = torch.empty(count, last.channels)
        if before:
            self._image_features[:before] = self.features[:before]
        self._observed = torch.empty(0, dtype=torch.int64)

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Stores the maps and image features of a batch; same bits on any number of processes."""
        rows = index.cpu() + self.images_before
        *maps, last = self.backbone(image)
        self._image_features[rows] = spatial_mean(last).cpu()
        flat = [level.permute(0, 2, 3, 1).flatten(1) for level in maps]
        vectors = torch.cat(flat, 1)
        self.gallery[rows] = vectors.to("cpu", self.storage)
        self._observed = torch.cat([self._observed, rows])

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]:
        """Yields the maps and features of the images that this process has observed, in blocks."""
        images_in_block = BLOCK_BYTES * len(self.gallery) // max(1, self.gallery.nbytes)
        for rows in self._observed[first:].split(max(1, images_in_block)):
            yield {
                "rows": rows.clone(),
                "maps": self.gallery[rows],
                "features": self._image_features[rows],
            }

    def restore(self, piece: dict[str, Any]) -> None:
        """Stores a block of `partial_state`."""
        rows = piece["rows"]
        self.gallery[rows] = piece["maps"]
        self._image_features[rows] = piece["features"]
        self._observed = torch.cat([self._observed, rows])

    def complete(self) -> None:
        """Gives every process the rows of the others; the order is that of the images."""
        share_rows([self.gallery, self._image_features], self._observed, self.device)
        count = self.images_before + sum_over_processes(len(self._observed), self.device)
        if count < len(self.gallery):  # suspicious images were left out
            length = int(self.grids.prod(1).sum())
            resize_gallery(self.gallery, count, length, self.storage, keep=count)
        self.gallery.to(self.device)
        self.features = self._image_features[:count].to(self.device, copy=True)
        del self._image_features, self._observed
        if count < max(self.k_image, self.k_pixel):
            rank_zero_info(
                f"There are only {count} training images: model.k_image {self.k_image} and "
                f"model.k_pixel {self.k_pixel} use at most all of them."
            )

    def stages(self, plan: Plan) -> list[Stage]:
        """The gallery is held from the first image on, unless it goes to a file."""
        *levels, _ = self.backbone.shapes(plan.height, plan.width)
        numbers = sum(level.channels * level.height * level.width for level in levels)
        size = self.storage.itemsize * plan.world * plan.images * numbers
        held = 0.0
        if fits(size, plan.memory_bytes):
            held = float(size)
        return [
            Stage("Reading images", held),
            Stage("Testing", 3 * held + 2 * BLOCK_BYTES),  # the checkpoint is loaded beside it
        ]

    @property
    def compile_targets(self) -> list[nn.Module]:
        return [self.backbone.body]

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Scores images by distances, at least 0.

        `nearest` is the gallery pixel of the finest level that is nearest to the pixel where the
        map is highest.
        """
        self.require_fitted()
        *maps, last = self.backbone(image)
        with torch.autocast(image.device.type, enabled=False):  # distances and maps in float32
            wanted = max(self.k_image, self.k_pixel)
            count = min(wanted, len(self.features))
            squared, images = nearest_neighbours(spatial_mean(last), self.features, count)
            distances = self._distances(squared[:, : self.k_image])
            score = distances.mean(1)
            maps = [level.float() for level in maps]
            compared = images[:, : self.k_pixel]
            return self._predict(maps, compared, score, image.shape[2:], ignore)

    def leave_one_out(self, image: Tensor, index: Tensor, ignore: Tensor | None = None) -> Tensor:
        """Scores training images without themselves in the gallery, exactly, from stored features.

        Raises:
            UserError: if there is no other training image.
        """
        tiles = self.tiles_per_image  # all tiles of the image are left out
        if len(self.features) <= tiles:
            raise UserError("there is one training image, and none to compare it with; add some")
        count = min(self.k_image, len(self.features) - tiles)
        row = self.images_before + index
        with torch.autocast(image.device.type, enabled=False):
            squared, images = nearest_neighbours(self.features[row], self.features, count + tiles)
        others = images // tiles != row[:, None] // tiles
        kept = others & (others.cumsum(1) <= count)  # itself may be farther than its duplicates
        distances = self._distances(squared)[kept]
        return distances.view(-1, count).mean(1)

    def _predict(
        self,
        maps: list[Tensor],
        images: Tensor,
        score: Tensor,
        size: torch.Size,
        ignore: Tensor | None,
    ) -> Prediction:
        """Compares maps [B, C_l, h_l, w_l] with those of the training images `images` [B, k]."""
        anomaly_maps = []
        nearest = []
        for group in self.groups:
            levels = [maps[level] for level in group]
            scores, pixels = self._compare(levels, group, images)
            anomaly_maps.append(score_map(scores, *size, self.sigma, ignore))
            nearest.append(pixels)
        anomaly_map = torch.stack(anomaly_maps).mean(0)
        finest = maps[0].shape[2:]
        positions = self._positions(anomaly_map, nearest[0], finest)
        return Prediction(anomaly_map, score, positions)

    def _compare(
        self, maps: list[Tensor], group: list[int], images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores [B, h, w] on the finest grid of a group of levels, and the nearest gallery pixels.

        Pixels [B, h * w] are counted through the grids of all images.
        """
        queries = patch_features(maps, 1, None, None)
        height, width = maps[0].shape[2:]
        scores = queries.new_empty(len(queries), height, width)
        nearest = images.new_empty(len(queries), height * width)
        for k, query in enumerate(queries):
            squared, pixels = self._search(query, group, images[k])
            distances = self._distances(squared)
            scores[k] = distances.mean(1).view(height, width)
            nearest[k] = pixels[:, 0]
        return scores, nearest

    def _search(self, queries: Tensor, group: list[int], images: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the nearest gallery pixels of `images` [k] to `queries` [P, D].

        Returns:
            Squared distances [P, neighbours], ascending, and pixels int64, counted through the
            grids of all images.
        """
        area = int(self.grids[group[0], :2].prod())
        images_in_block = BLOCK_BYTES // (4 * area * queries.shape[1])
        squared = queries.new_empty(len(queries), 0)
        pixels = images.new_empty(len(queries), 0)
        for some in images.split(max(1, images_in_block)):
            levels = [self._read(level, some) for level in group]
            bank = patch_features(levels, 1, None, None).flatten(0, 1)
            count = min(self.neighbours, len(bank))
            distances, rows = nearest_neighbours(queries, bank, count)
            found = some[rows // area] * area + rows % area
            squared = torch.cat([squared, distances], 1)
            pixels = torch.cat([pixels, found], 1)
            count = min(self.neighbours, squared.shape[1])
            squared, order = squared.topk(count, largest=False)
            pixels = pixels.gather(1, order)
        return squared, pixels

    def _read(self, level: int, images: Tensor) -> Tensor:
        """Reads the maps [k, C, h, w] of training images, onto the device of `images`."""
        height, width, channels = self.grids[level].tolist()
        begin = int(self.grids[:level].prod(1).sum())
        columns = slice(begin, begin + height * width * channels)
        device = self.gallery.blocks[0].device
        rows = self.gallery[images.to(device), columns]
        flat = rows.to(images.device).float()
        return flat.view(-1, height, width, channels).permute(0, 3, 1, 2)

    def _positions(self, anomaly_map: Tensor, nearest: Tensor, grid: torch.Size) -> Tensor:
        """Image, row and column [B, 3] of the gallery pixels [B, P] where the map is highest."""
        peak = anomaly_map.flatten(1).argmax(1)
        _, map_height, map_width = anomaly_map.shape
        row = peak // map_width * grid[0] // map_height
        column = peak % map_width * grid[1] // map_width
        place = row * grid[1] + column
        pixel = nearest.gather(1, place[:, None])[:, 0]
        height, width, _ = self.grids[0].tolist()
        image = pixel // (height * width)
        within = pixel % (height * width)
        return torch.stack([image, within // width, within % width], 1)

    def _distances(self, squared: Tensor) -> Tensor:
        return squared.sqrt() if self.distance == "plain" else squared

    def _check_grids(self, grids: Tensor) -> None:
        if not torch.equal(grids, self.grids):
            raise UsageError(
                f"the gallery has maps of {self.grids[0, 0]}x{self.grids[0, 1]} pixels, and images "
                f"of this size have {grids[0, 0]}x{grids[0, 1]}: set data.image_size and "
                "data.center_crop as in the run that is extended"
            )
