"""PatchCore (Roth et al., CVPR 2022, arXiv 2106.08265): a coreset of patch features, scored by nearest neighbours."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_ad.data.sample import Prediction
from lightning_ad.errors import UsageError, UserError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.maps import hide, score_map
from lightning_ad.features.patches import patch_features
from lightning_ad.methods.fit_only import SERIES, FitOnlyModule
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.methods.patchcore.bank import PatchBank, selected_numbers
from lightning_ad.system.distributed import sum_over_processes
from lightning_ad.system.memory import BLOCK_BYTES, VectorStore, fits, gather_rows_from_file


class Found(NamedTuple):
    """What a bank says of a batch.

    Attributes:
        scores: [B, P], of each patch.
        rows: int64 [B, P], of the bank, nearest to each patch.
    """

    scores: Tensor
    rows: Tensor


class Sizes(NamedTuple):
    """Of what a backbone gives of an image.

    Attributes:
        patches: on its grid.
        length: numbers of a patch feature.
        selected: numbers that a selection holds of each beside it.
    """

    patches: int
    length: int
    selected: int


class PatchCore(FitOnlyModule):
    """Defaults are those of the released code (WideResNet50-2, 10 % coreset, squared distances, no re-weighting).

    Args:
        backbone: a torchvision model, or timm/<name>; a list of them for an ensemble, whose scores are averaged, each
            in units of the typical distance within its own bank.
        weights: the name of the backbone's weights, the path of a state dict, or null for random ones; for an ensemble
            a list.
        layers: node names; null for the last blocks at strides 8 and 16 (layer2 and layer3 of a ResNet); for an
            ensemble a list of lists.
        patch_size: side of the neighbourhood that a patch feature describes (section 3.1), odd.
        layer_dimension: length to which each layer's patch vector is pooled; null for the plain average of the
            neighbourhood, layers concatenated (with dimension null too).
        dimension: length of a patch feature (released: 1024, 384 for each member of an ensemble).
        coreset_ratio: the share of all training patches that is kept, above 0, at most 1.
        selection: approximate, from 10 random starting points as released; greedy, from one.
        projection: dimension of the random projection in which the coreset is selected; null for none.
        neighbours: a patch's score is the mean distance to this many nearest patches.
        distance: squared, as released, or plain Euclidean distances.
        reweight: the b of the paper's image score (section 3.3, equation 7); 0 for the plain maximum, as released.
        sigma: of the Gaussian that smooths the map, in pixels; 0 for none.
        memory_gb: what a fit may hold of the training images, in GiB a process, all members together: where features
            and their projections are more, the features go to a temporary file; where the projections alone are more,
            coresets of parts are merged. null for no limit.
        seed: of the projection and the starting points; the command line sets it from seed_everything.
    """

    def __init__(
        self,
        backbone: str | list[str] = "wide_resnet50_2",
        weights: str | list[str | None] | None = "IMAGENET1K_V1",
        layers: list[str] | list[list[str]] | None = None,
        patch_size: int = 3,
        layer_dimension: int | None = 1024,
        dimension: int | None = 1024,
        coreset_ratio: float = 0.1,
        selection: Literal["approximate", "greedy"] = "approximate",
        projection: int | None = 128,
        neighbours: int = 1,
        distance: Literal["squared", "plain"] = "squared",
        reweight: int = 0,
        sigma: float = 4.0,
        memory_gb: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(patch_size, layer_dimension, dimension, coreset_ratio)
        at_least = {
            "neighbours": (neighbours, 1),
            "projection": (projection or 1, 1),
            "sigma": (sigma, 0),
        }
        at_least["memory_gb"] = (memory_gb or 0, 0)
        for name, (came, least) in {**at_least, "dimension": (dimension or 1, 1)}.items():
            if came < least:
                raise UsageError(f"model.{name} must be at least {least}, {came} came")
        if reweight < 0 or reweight == 1:
            raise UsageError(f"model.reweight must be 0 for none, or at least 2, {reweight} came")
        self.save_hyperparameters()
        self.backbones = nn.ModuleList(
            Backbone(*one, strides=(8, 16)) for one in _members(backbone, weights, layers)
        )
        self.banks = nn.ModuleList(PatchBank() for _ in self.backbones)
        self.patch_size, self.layer_dimension, self.dimension = (
            patch_size,
            layer_dimension,
            dimension,
        )
        self.coreset_ratio, self.selection, self.projection = coreset_ratio, selection, projection
        self.neighbours, self.distance, self.reweight = neighbours, distance, reweight
        self.sigma, self.seed = sigma, seed
        self.memory_bytes = None if memory_gb is None else int(memory_gb * 2**30)
        self._stores: list[VectorStore] = []
        self._grids: list[tuple[int, int]] = []

    def begin(self) -> None:
        """Room for the vectors of all images that this process will see."""
        if not self.growing:
            for bank in self.banks:
                bank.forget()
        images = len(self.trainer.train_dataloader.dataset)
        sizes = [
            self._sizes(backbone, *self.trainer.datamodule.input_size)
            for backbone in self.backbones
        ]
        self._stores = [VectorStore(images, self._room(size, self.memory_bytes)) for size in sizes]

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Stores the patch features of a batch in main memory; the same bits on any number of processes."""
        self._grids.clear()
        for member, store in enumerate(self._stores):
            features, grid = self._patches(image, member)
            store.put(index, features)
            self._grids.append(grid)

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]:
        """The vectors of the images that this process has observed, in blocks."""
        whole = sum(store.vectors[:1].nbytes for store in self._stores)
        for places in torch.arange(first, len(self._stores[0].index)).split(
            max(1, BLOCK_BYTES // max(1, whole))
        ):
            vectors = [gather_rows_from_file(store.vectors, places) for store in self._stores]
            yield {
                "index": self._stores[0].index[places],
                "vectors": vectors,
                "grids": [[*g] for g in self._grids],
            }

    def restore(self, piece: dict[str, Any]) -> None:
        """Takes such a block."""
        self._grids = [(height, width) for height, width in piece["grids"]]
        for store, vectors in zip(self._stores, piece["vectors"], strict=True):
            store.put(piece["index"], vectors)

    def complete(self) -> None:
        """Selects the coreset; every process keeps its vectors to itself."""
        starts = 10 if self.selection == "approximate" else None
        for member, (bank, grid) in enumerate(zip(self.banks, self._grids, strict=True)):
            held = sum(store.held for store in self._stores)
            store = self._stores[member]
            images = self.images_before + store.index
            total = self.images_before + sum_over_processes(len(images), self.device)
            count = self._count(total * grid[0] * grid[1])
            bank.select(
                store.vectors, images, self.images_before, grid, count, self.projection, starts, self.seed,
                None if self.memory_bytes is None else self.memory_bytes - held, self._keeper(f"selection{member}"),
            )  # fmt: skip
            if len(self.banks) > 1:
                bank.measure_scale()
                self._keep_before_they_go()
            self._stores[member] = VectorStore(0)
        self._stores = []

    def _keep_before_they_go(self) -> None:
        """The vectors of a member that is selected are given back: now, or not at all, can all of them be kept."""
        wanted = self._progress is not None and (
            self._progress.last(SERIES) > 0 or self._progress.due()
        )
        if not (wanted and self.keep_progress()):
            self._progress = None

    def stages(self, plan: Plan) -> list[Stage]:
        """Reading holds all patch features, selecting their projections too, and testing the bank."""
        held, projections, bank = 0.0, 0.0, 0.0
        for backbone in self.backbones:
            size = self._sizes(backbone, plan.height, plan.width)
            count = plan.images * size.patches
            features = 4.0 * count * size.length
            if fits(int(features), self._room(size, plan.memory_bytes)):
                held += features
            selected = 4.0 * count * size.selected
            projections = max(projections, min(selected, plan.memory_bytes or selected))
            bank += 4 * plan.world * count * self.coreset_ratio * size.length
        return [
            Stage("Reading images", held),
            Stage("Selecting the coreset", held + projections + 2 * bank),
            Stage("Testing", bank),
        ]

    @property
    def compile_targets(self) -> list[nn.Module]:
        """The backbones."""
        return [backbone.body for backbone in self.backbones]

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Patch scores are distances to the bank, at least 0; the image score is their maximum."""
        self.require_fitted()
        size = image.shape[2], image.shape[3]
        maps, image_scores, nearest = [], [], None
        for member, bank in enumerate(self.banks):
            features, grid = self._patches(image, member)
            with torch.autocast(image.device.type, enabled=False):  # distances and maps in float32
                found = self._find(bank, features)
                scores = hide(found.scores.view(-1, *grid), ignore)
                score, worst = scores.flatten(1).max(1)
                row = found.rows.gather(1, worst[:, None])[:, 0]
                if self.reweight:
                    score = score * self._weight(
                        bank, features[torch.arange(len(worst)), worst], row
                    )
                nearest = bank.origin[row].long() if nearest is None else nearest
                maps.append(score_map(scores / self._unit(bank), *size, self.sigma, ignore))
                image_scores.append(score / self._unit(bank))
        return Prediction(torch.stack(maps).mean(0), torch.stack(image_scores).mean(0), nearest)

    def leave_one_out(self, image: Tensor, index: Tensor, ignore: Tensor | None = None) -> Tensor:
        """The largest distance of a patch to the rows of other images; the rows stay those selected with the image."""
        scores, tiles = [], self.tiles_per_image
        first = self.images_before + index // tiles * tiles  # of the tiles of each image
        for member, bank in enumerate(self.banks):
            features, grid = self._patches(image, member)
            with torch.autocast(image.device.type, enabled=False):
                alone = [
                    self._find(
                        bank, one[None], without=range(int(start), int(start) + tiles)
                    ).scores.view(grid)
                    for one, start in zip(features, first, strict=True)
                ]
            scores.append(hide(torch.stack(alone), ignore).flatten(1).amax(1) / self._unit(bank))
        return torch.stack(scores).mean(0)

    def _sizes(self, backbone: nn.Module, height: int, width: int) -> Sizes:
        shapes = backbone.shapes(height, width)  # type: ignore[operator]
        length = self.dimension or sum(shape.channels for shape in shapes)
        return Sizes(shapes[0].height * shapes[0].width, length, selected_numbers(self.projection))

    def _room(self, size: Sizes, memory_bytes: int | None) -> int | None:
        """Bytes that one member's features may take in memory, so that there is room for their selection too."""
        if memory_bytes is None:
            return None
        return int(memory_bytes / len(self.banks) * size.length / (size.length + size.selected))

    def _find(self, bank: PatchBank, features: Tensor, without: range | None = None) -> Found:
        squared, rows = bank.search(features.flatten(0, 1), self.neighbours, without)
        distances = squared if self.distance == "squared" else squared.sqrt()
        return Found(
            distances.mean(1).view(features.shape[:2]), rows[:, 0].view(features.shape[:2])
        )

    def _unit(self, bank: PatchBank) -> Tensor | float:
        """Of scores: the scale of a member of an ensemble, in its square where distances are."""
        if len(self.banks) == 1:
            return 1.0
        return bank.scale**2 if self.distance == "squared" else bank.scale

    def _patches(self, image: Tensor, member: int) -> tuple[Tensor, tuple[int, int]]:
        (features,) = self.backbones[member](image, self._features)
        return features.flatten(1, 2).float(), (features.shape[1], features.shape[2])

    def _features(self, maps: list[Tensor]) -> list[Tensor]:
        features = patch_features(maps, self.patch_size, self.layer_dimension, self.dimension)
        return [features.unflatten(1, maps[0].shape[2:])]

    def _count(self, total: int) -> int:
        count = int(total * self.coreset_ratio)
        if count < 1:
            raise UserError(
                f"a coreset_ratio of {self.coreset_ratio} of {total} patches is none; "
                f"set model.coreset_ratio to at least {1 / total:.2g}"
            )
        return count

    def _weight(self, bank: PatchBank, queries: Tensor, nearest: Tensor) -> Tensor:
        """1 - exp|q - m*| / sum over the b bank patches m nearest to m* of exp|q - m| (equation 7)."""
        around = bank.search(bank.bank[nearest], self.reweight)[1]
        distances = (queries[:, None] - bank.bank[around]).norm(dim=2)
        return 1 - distances.softmax(1)[:, 0]


def _members(
    backbone: str | list[str],
    weights: str | list[str | None] | None,
    layers: list[str] | list[list[str]] | None,
) -> list[tuple[str, str | None, list[str] | None]]:
    """Backbone, weights and layers of each member of the ensemble."""
    if isinstance(backbone, str):
        if isinstance(weights, list) or (layers and not isinstance(layers[0], str)):
            raise UsageError(
                "model.weights and model.layers are lists for each backbone; model.backbone is only one"
            )
        return [(backbone, weights, layers)]
    each = {
        "weights": weights if isinstance(weights, list) else [weights] * len(backbone),
        "layers": [None] * len(backbone) if layers is None else layers,
    }
    for name, values in each.items():
        if len(values) != len(backbone):
            raise UsageError(
                f"model.{name} has {len(values)} entries for the {len(backbone)} of model.backbone"
            )
    return list(zip(backbone, each["weights"], each["layers"], strict=True))


def _check(
    patch_size: int, layer_dimension: int | None, dimension: int | None, coreset_ratio: float
) -> None:
    if patch_size < 1 or patch_size % 2 == 0:
        raise UsageError(f"model.patch_size must be odd and positive, {patch_size} came")
    if (layer_dimension is None) != (dimension is None):
        raise UsageError("set both model.layer_dimension and model.dimension, or both to null")
    if not 0 < coreset_ratio <= 1:
        raise UsageError(f"model.coreset_ratio must be above 0 and at most 1, {coreset_ratio} came")
