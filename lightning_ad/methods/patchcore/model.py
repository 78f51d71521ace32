"""PatchCore (Roth et al., CVPR 2022, arXiv 2106.08265): nearest neighbours in a patch coreset."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_ad.data.sample import Prediction
from lightning_ad.errors import UsageError, UserError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.maps import hide, score_map
from lightning_ad.features.patches import patch_features
from lightning_ad.methods.arguments import bytes_of, check_at_least, check_odd
from lightning_ad.methods.feature_storage import put_features
from lightning_ad.methods.fit_only import FitOnlyModule
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.methods.patchcore.bank import (
    PatchBank,
    SelectionOptions,
    TrainingPatches,
    selected_numbers,
)
from lightning_ad.system.distributed import sum_over_processes
from lightning_ad.system.memory import BLOCK_BYTES, VectorStore, fits, gather_rows_from_file

APPROXIMATE_START = 10  # random patches, as released


class Member(NamedTuple):
    """The arguments of one backbone of an ensemble."""

    backbone: str
    weights: str | None
    layers: list[str] | None


class Found(NamedTuple):
    """The result of a search in a bank for the patches of a batch.

    Attributes:
        scores: [B, P], of each patch.
        rows: int64 [B, P], the row of the bank that is nearest to each patch.
    """

    scores: Tensor
    rows: Tensor


class Sizes(NamedTuple):
    """Dimensions of one backbone's patch features.

    Attributes:
        patches: of an image.
        length: of a patch feature.
        selected: numbers that a selection holds for each patch, beside its feature.
    """

    patches: int
    length: int
    selected: int


class PatchCore(FitOnlyModule):
    """Scores each patch by its distance to the nearest patch in a coreset of good ones.

    Defaults are those of the released code (WideResNet50-2, 10 % coreset, squared distances, no
    re-weighting).

    Args:
        backbone: a torchvision model, or timm/<name>; a list of them for an ensemble, whose scores
            are averaged, each in units of the typical distance within its own bank.
        weights: the name of the backbone's weights, the path of a state dict, or null for random
            ones; for an ensemble a list.
        layers: node names; null for the last blocks at strides 8 and 16 (layer2 and layer3 of a
            ResNet); for an ensemble a list of lists.
        patch_size: side of the neighbourhood that a patch feature describes (section 3.1), odd.
        layer_dimension: length to which each layer's patch vector is pooled; null for the plain
            average of the neighbourhood, layers concatenated (with dimension null too).
        dimension: length of a patch feature (released: 1024, 384 for each member of an ensemble).
        coreset_ratio: the share of all training patches that is kept, above 0, at most 1.
        selection: approximate, from 10 random starting points; greedy, from the patch farthest from
            the mean; both as released.
        projection: dimension of the random projection in which the coreset is selected; null for
            none.
        neighbours: a patch's score is the mean distance to this many nearest patches.
        distance: squared, as released, or plain Euclidean distances.
        reweight: the b of the paper's image score (section 3.3, equation 7); 0 for the plain
            maximum, as released.
        sigma: of the Gaussian that smooths the map, in pixels; 0 for none.
        memory_gb: what a fit may hold of the training images, in GiB a process, all members
            together: if features and their projections are more, the features go to a temporary
            file; if the projections alone are more, coresets of parts are merged. null for no
            limit.
        seed: of the projection and the starting points; the command line sets it from
            seed_everything.
    """

    can_extend = True

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
        check_odd(patch_size=patch_size)
        check_at_least(
            layer_dimension=(layer_dimension, 1),
            dimension=(dimension, 1),
            projection=(projection, 1),
            neighbours=(neighbours, 1),
            reweight=(reweight, 0),
            sigma=(sigma, 0),
            memory_gb=(memory_gb, 0),
        )
        _check(layer_dimension, dimension, coreset_ratio, reweight)
        self.save_hyperparameters()
        members = _members(backbone, weights, layers)
        self.backbones = nn.ModuleList(Backbone(*member, strides=(8, 16)) for member in members)
        self.banks = nn.ModuleList(PatchBank() for _ in members)
        self.patch_size = patch_size
        self.layer_dimension = layer_dimension
        self.dimension = dimension
        self.coreset_ratio = coreset_ratio
        self.selection = selection
        self.projection = projection
        self.neighbours = neighbours
        self.distance = distance
        self.reweight = reweight
        self.sigma = sigma
        self.seed = seed
        self.memory_bytes = bytes_of(memory_gb)
        self._random_first = False
        self._stores: list[VectorStore] = []  # the features of each member
        self._grids: list[tuple[int, int]] = []  # of each member

    def begin(self) -> None:
        """Makes room for the features of all images that this process will see."""
        if not self.extending:
            self._random_first = False
            for bank in self.banks:
                bank.forget()
        images = len(self.training_set)
        self._stores = []
        for backbone in self.backbones:
            size = self._sizes(backbone, *self.training_set.input_size)
            self._stores.append(VectorStore(images, self._room(size, self.memory_bytes)))

    def observe(self, image: Tensor, index: Tensor) -> None:
        """Stores the patch features of a batch; the same bits on any number of processes."""
        self._grids.clear()
        for member, store in enumerate(self._stores):
            features, grid = self._patches(image, member)
            put_features(store, index, features)
            self._grids.append(grid)

    def partial_state(self, first: int) -> Iterator[dict[str, Any]]:
        """Yields the features of the images that this process has observed, in blocks."""
        bytes_of_image = sum(store.vectors[:1].nbytes for store in self._stores)
        images_in_block = max(1, BLOCK_BYTES // max(1, bytes_of_image))
        index = self._stores[0].index
        for places in torch.arange(first, len(index)).split(images_in_block):
            yield {
                "index": index[places],
                "vectors": [gather_rows_from_file(store.vectors, places) for store in self._stores],
                "grids": [list(grid) for grid in self._grids],
            }

    def restore(self, piece: dict[str, Any]) -> None:
        """Stores a block of `partial_state`."""
        self._grids = [(height, width) for height, width in piece["grids"]]
        for store, vectors in zip(self._stores, piece["vectors"], strict=True):
            put_features(store, piece["index"], vectors)

    def complete(self) -> None:
        """Selects the coreset of each member; every process keeps its features to itself."""
        for member, bank in enumerate(self.banks):
            self._select(member)
            if len(self.banks) > 1:
                bank.measure_scale()
                if self.progress is not None:
                    self.progress.save_or_end(self)
            self._stores[member] = VectorStore(0)  # gives the features back
        self._stores = []

    def _select(self, member: int) -> None:
        store = self._stores[member]
        grid = self._grids[member]
        images = self.images_before + store.index
        total = self.images_before + sum_over_processes(len(images), self.device)
        patches = TrainingPatches(store.vectors, images, self.images_before, grid)
        options = SelectionOptions(
            count=self._coreset_size(total * grid[0] * grid[1]),
            projection=self.projection,
            starting_points=self._starting_points(),
            seed=self.seed,
            memory_bytes=self._memory_left(),
        )
        saver = self.selection_saver(f"selection{member}")
        self.banks[member].select(patches, options, saver)

    def _starting_points(self) -> int | None:
        if self.selection == "approximate":
            return APPROXIMATE_START
        return None if self._random_first else 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds how a greedy selection begins, for a fit that extends this one."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["random_first"] = self._random_first

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes how a greedy selection began: at a random patch in runs that do not say it."""
        super().on_load_checkpoint(checkpoint)
        self._random_first = checkpoint.get("random_first", True)

    def _memory_left(self) -> int | None:
        """Returns the bytes that a selection may take beside the features; None for no limit."""
        if self.memory_bytes is None:
            return None
        return self.memory_bytes - sum(store.held for store in self._stores)

    def stages(self, plan: Plan) -> list[Stage]:
        """Reading holds all patch features, selecting their projections too, testing the bank."""
        held = 0.0
        projections = 0.0
        bank = 0.0
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
        return [backbone.body for backbone in self.backbones]

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Scores patches by distances, at least 0; the score of an image is its patches' maximum.

        `nearest` is of the first member of an ensemble.
        """
        self.require_fitted()
        members = [self._predict(member, image, ignore) for member in range(len(self.banks))]
        maps, scores, nearest = zip(*members, strict=True)
        mean_map = torch.stack(maps).mean(0)
        mean_score = torch.stack(scores).mean(0)
        return Prediction(mean_map, mean_score, nearest[0])

    def _predict(self, member: int, image: Tensor, ignore: Tensor | None) -> Prediction:
        """Returns the prediction of one member, in units of its scale."""
        bank = self.banks[member]
        features, grid = self._patches(image, member)
        with torch.autocast(image.device.type, enabled=False):  # distances and maps in float32
            found = self._find(bank, features)
            scores = hide(found.scores.view(-1, *grid), ignore)
            score, worst = scores.flatten(1).max(1)
            every = torch.arange(len(worst), device=worst.device)
            row = found.rows[every, worst]
            if self.reweight:
                queries = features[every, worst]
                score = score * self._weight(bank, queries, row)
            unit = self._unit(bank)
            maps = score_map(scores / unit, *image.shape[2:], self.sigma, ignore)
            return Prediction(maps, score / unit, bank.origin[row].long())

    def leave_one_out(self, image: Tensor, index: Tensor, ignore: Tensor | None = None) -> Tensor:
        """Scores training images by the rows of other images.

        These rows are still those that were selected with the image.
        """
        tiles = self.tiles_per_image
        first = self.images_before + index // tiles * tiles  # of the tiles of each image
        scores = []
        for member, bank in enumerate(self.banks):
            features, grid = self._patches(image, member)
            alone = []
            with torch.autocast(image.device.type, enabled=False):
                for patches, start in zip(features, first.tolist(), strict=True):
                    found = self._find(bank, patches[None], without=range(start, start + tiles))
                    alone.append(found.scores.view(grid))
            hidden = hide(torch.stack(alone), ignore)
            highest = hidden.flatten(1).amax(1)
            scores.append(highest / self._unit(bank))
        return torch.stack(scores).mean(0)

    def _sizes(self, backbone: nn.Module, height: int, width: int) -> Sizes:
        shapes = backbone.shapes(height, width)  # type: ignore[operator]
        finest = shapes[0]
        length = self.dimension or sum(shape.channels for shape in shapes)
        return Sizes(finest.height * finest.width, length, selected_numbers(self.projection))

    def _room(self, size: Sizes, memory_bytes: int | None) -> int | None:
        """Returns the bytes of one member's features beside which their selection still fits."""
        if memory_bytes is None:
            return None
        of_member = memory_bytes / len(self.banks)
        return int(of_member * size.length / (size.length + size.selected))

    def _find(self, bank: PatchBank, features: Tensor, without: range | None = None) -> Found:
        """Searches patch features [B, P, D], in the rows of all images but those of `without`."""
        squared, rows = bank.search(features.flatten(0, 1), self.neighbours, without)
        distances = squared if self.distance == "squared" else squared.sqrt()
        shape = features.shape[:2]
        scores = distances.mean(1).view(shape)
        return Found(scores, rows[:, 0].view(shape))

    def _unit(self, bank: PatchBank) -> Tensor | float:
        """Returns the number that an ensemble member's scores are divided by.

        Its bank's scale, squared for squared distances.
        """
        if len(self.banks) == 1:
            return 1.0
        return bank.scale**2 if self.distance == "squared" else bank.scale

    def _patches(self, image: Tensor, member: int) -> tuple[Tensor, tuple[int, int]]:
        """Returns patch features [B, P, D] of images, and height and width of their grid."""
        (features,) = self.backbones[member](image, self._features)
        _, height, width, _ = features.shape
        return features.flatten(1, 2).float(), (height, width)

    def _features(self, maps: list[Tensor]) -> list[Tensor]:
        features = patch_features(maps, self.patch_size, self.layer_dimension, self.dimension)
        return [features.unflatten(1, maps[0].shape[2:])]

    def _coreset_size(self, patches: int) -> int:
        count = int(patches * self.coreset_ratio)
        if count < 1:
            raise UserError(
                f"a model.coreset_ratio of {self.coreset_ratio} keeps none of {patches} patches; "
                f"set model.coreset_ratio to at least {1 / patches:.2g}"
            )
        return count

    def _weight(self, bank: PatchBank, queries: Tensor, nearest: Tensor) -> Tensor:
        """Returns the weight of the image score (equation 7).

        1 - exp|q - m*| / sum over the b bank patches m nearest to m* of exp|q - m|.
        """
        around = bank.search(bank.bank[nearest], self.reweight)[1]
        distances = (queries[:, None] - bank.bank[around]).norm(dim=2)
        return 1 - distances.softmax(1)[:, 0]


def _members(
    backbone: str | list[str],
    weights: str | list[str | None] | None,
    layers: list[str] | list[list[str]] | None,
) -> list[Member]:
    """Returns the members of the ensemble; one if `backbone` is no list."""
    if isinstance(backbone, str):
        if isinstance(weights, list) or (layers and not isinstance(layers[0], str)):
            raise UsageError(
                "model.weights and model.layers are lists for each backbone; model.backbone is "
                "only one"
            )
        return [Member(backbone, weights, layers)]
    count = len(backbone)
    all_weights = weights if isinstance(weights, list) else [weights] * count
    all_layers = [None] * count if layers is None else layers
    _check_entries("weights", all_weights, count)
    _check_entries("layers", all_layers, count)
    return [Member(*member) for member in zip(backbone, all_weights, all_layers, strict=True)]


def _check_entries(name: str, values: Sequence[object], count: int) -> None:
    if len(values) != count:
        raise UsageError(
            f"model.{name} has {len(values)} entries for the {count} of model.backbone"
        )


def _check(
    layer_dimension: int | None, dimension: int | None, coreset_ratio: float, reweight: int
) -> None:
    if (layer_dimension is None) != (dimension is None):
        raise UsageError("set both model.layer_dimension and model.dimension, or both to null")
    if not 0 < coreset_ratio <= 1:
        raise UsageError(f"model.coreset_ratio must be above 0 and at most 1, got {coreset_ratio}")
    if reweight == 1:
        raise UsageError("model.reweight must be 0 for none, or at least 2, got 1")
