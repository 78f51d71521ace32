"""CFA (Lee, Lee and Song, IEEE Access 2022, arXiv 2206.04325): features adapted to good ones."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_ad.data.sample import Batch, Prediction
from lightning_ad.data.sampler import KeySampler
from lightning_ad.errors import NotFittedError, UsageError
from lightning_ad.features.backbone import Backbone
from lightning_ad.features.maps import score_map
from lightning_ad.methods.arguments import check_at_least
from lightning_ad.methods.cfa.losses import (
    hypersphere_losses,
    nearest_squared_distances,
    softmin_score,
)
from lightning_ad.methods.cfa.networks import PatchDescriptor, SumBackbone
from lightning_ad.methods.forecast import Plan, Stage
from lightning_ad.methods.learned import LearnedModule
from lightning_ad.statistics.kmeans import best_kmeans
from lightning_ad.system.distributed import (
    gather_rows,
    process_rank,
    sum_over_processes,
    world_size,
)
from lightning_ad.system.progress import progress

FIRST_RADIUS = 1e-5
MAX_ITERATIONS = 3000  # of k-means


class CFA(LearnedModule):
    """Learns a descriptor that brings good patches near to a bank of centres.

    The centres are the means of random descriptors of the training images, position by position.
    Then the descriptor, and the radius of the centres' hyperspheres, learn to bring each patch into
    the hyperspheres of its nearest centres, while the bank stays as it is. Defaults are those of
    the released code: WideResNet50-2 before its ReLUs, one centre for each position.

    Args:
        backbone: a torchvision model, or timm/<name>.
        weights: the name of the backbone's weights, the path of a state dict, or null for random
            ones.
        layers: node names, the finest grid first; null for the last blocks at strides 4, 8 and 16.
        features: pre_relu, as released for ResNets: the sums at the ends of residual blocks, then
            a leaky ReLU of slope 0.01. post_relu: the layers' outputs as they are, the only choice
            for networks without such sums.
        gamma_c: the number of centres is that of the grid's positions, divided by this; above 1,
            they are found by k-means.
        gamma_d: the length of a descriptor is the number of the layers' channels, divided by this.
        neighbours: K, the number of nearest centres that attract a patch and give its score.
        hard_negatives: J, the number of the next centres, which repel the patch.
        alpha: margin of the repulsion, in squared distance.
        nu: the losses are divided by it.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        optimizer: replaces AdamW, with its own learning rate.
        lr_scheduler: a schedule, stepped after each epoch; null for a constant learning rate.
        sigma: of the Gaussian that smooths the map, in pixels; 0 for none.
        seed: of the first weights and of k-means; the command line sets it from seed_everything.
        kmeans_starts: the k-means of the lowest inertia of so many is taken (released: 10, as
            scikit-learn's default was).

    Attributes:
        bank: the centres, float32 [N, D]; empty before the first fit, which begins by making it.
            Later fits, and a resumed one, keep it.
    """

    one_thread_per_image = True
    bank: Tensor

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        weights: str | None = "IMAGENET1K_V1",
        layers: list[str] | None = None,
        features: Literal["pre_relu", "post_relu"] = "pre_relu",
        gamma_c: int = 1,
        gamma_d: int = 1,
        neighbours: int = 3,
        hard_negatives: int = 3,
        alpha: float = 0.1,
        nu: float = 1e-3,
        learning_rate: float = 1e-3,
        weight_decay: float = 5e-4,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        sigma: float = 4.0,
        seed: int = 0,
        kmeans_starts: int = 10,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        check_at_least(
            gamma_c=(gamma_c, 1),
            kmeans_starts=(kmeans_starts, 1),
            gamma_d=(gamma_d, 1),
            neighbours=(neighbours, 1),
            hard_negatives=(hard_negatives, 1),
            sigma=(sigma, 0),
        )
        if nu <= 0:
            raise UsageError(f"model.nu must be above 0, got {nu}")
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        # With blocks of a fixed size, features are the same bits in every batch; on a GPU that
        # costs too much.
        backbone_class = SumBackbone if features == "pre_relu" else Backbone
        self.backbone = backbone_class(
            backbone, weights, layers, strides=(4, 8, 16), blocks={"cpu": 1}
        )
        self.descriptor = _descriptor(self.backbone, gamma_d, seed)
        self.radius = nn.Parameter(torch.tensor(FIRST_RADIUS))
        self.register_dynamic_buffer("bank", torch.empty(0, 0))
        self.features = features
        self.gamma_c = gamma_c
        self.kmeans_starts = kmeans_starts
        self.neighbours = neighbours
        self.hard_negatives = hard_negatives
        self.alpha = alpha
        self.nu = nu
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.sigma = sigma
        self.seed = seed

    @property
    def compile_targets(self) -> list[nn.Module]:
        return [self.backbone.body, self.descriptor]

    def stages(self, plan: Plan) -> list[Stage]:
        """A step holds the maps of its images and their descriptors, with gradients."""
        grid = self.backbone.shapes(plan.height, plan.width)[0]
        wide = self.descriptor.projection.in_features
        narrow = self.descriptor.projection.out_features
        held = 4.0 * plan.batch * grid.height * grid.width * (2 * wide + 4 * narrow)
        return [
            Stage("Averaging features", held),
            Stage("Training", held),
            Stage("Testing", held),
        ]

    def check_image_size(self, height: int, width: int) -> None:
        """Raises UsageError if the grid has too few positions for K + J centres."""
        super().check_image_size(height, width)
        grid = self.backbone.shapes(height, width)[0]
        positions = grid.height * grid.width
        centres = positions // self.gamma_c
        needed = self.neighbours + self.hard_negatives
        if centres < needed:
            raise UsageError(
                f"images of {height}x{width} have {positions} positions, and model.gamma_c "
                f"{self.gamma_c} leaves {centres} centres; {needed} are needed. Lower "
                "model.gamma_c, or raise data.image_size"
            )

    def on_train_start(self) -> None:
        """Makes the bank before the first step, unless there is one."""
        super().on_train_start()
        if not len(self.bank):
            with torch.no_grad():
                self.bank = self._first_bank()

    def forward(self, image: Tensor, ignore: Tensor | None = None) -> Prediction:
        """Scores patches by the softmin of their distances, at least 0; images by their maximum.

        Raises:
            NotFittedError: before a fit.
        """
        if not len(self.bank):
            raise NotFittedError(
                "this CFA has no bank; run train.py, or load the checkpoint of a fitted one"
            )
        maps = self._maps(image)
        batch, _, rows, columns = maps[0].shape
        squared = self._squared_distances(maps, self.neighbours)
        scores = softmin_score(squared.sqrt()).view(batch, rows, columns)
        anomaly = score_map(scores, image.shape[2], image.shape[3], self.sigma, ignore)
        return Prediction(anomaly, anomaly.flatten(1).amax(1))

    @property
    def loss_names(self) -> Sequence[str]:
        return ("loss_attraction", "loss_repulsion")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Attraction and repulsion, each a mean over patches and centres."""
        maps = self._maps(batch.image)
        squared = self._squared_distances(maps, self.neighbours + self.hard_negatives)
        attraction, repulsion = hypersphere_losses(
            squared, self.radius, self.neighbours, self.alpha, self.nu
        )
        return {"loss_attraction": attraction, "loss_repulsion": repulsion}

    def default_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            groups, lr=self.learning_rate, weight_decay=self.weight_decay, amsgrad=True
        )

    def _maps(self, image: Tensor) -> list[Tensor]:
        """The layers' features [B, C_l, h_l, w_l]."""
        with torch.no_grad():
            maps = [level.float() for level in self.backbone(image)]
            if self.features == "pre_relu":
                maps = [F.leaky_relu(level, 0.01) for level in maps]
            return maps

    def _squared_distances(self, maps: list[Tensor], count: int) -> Tensor:
        """Squared distances [B * h * w, count] of patches to their nearest centres.

        In float32 from the descriptor on: patches come so near to their centres that half precision
        would round the distances away.
        """
        with torch.autocast(maps[0].device.type, enabled=False):
            return nearest_squared_distances(self.descriptor(maps).flatten(0, 1), self.bank, count)

    def _first_bank(self) -> Tensor:
        """The centres [N, D], the same on all processes.

        They are the mean descriptors of the training images, or k-means centres of these.
        """
        # The descriptor is linear: that of the mean features is the mean of the descriptors.
        bank = self.descriptor(self._mean_features())[0]
        if self.gamma_c == 1:
            return bank
        own = bank.tensor_split(world_size())[process_rank()]
        shown = partial(progress, description="Clustering the bank")
        generator = torch.Generator().manual_seed(self.seed)
        clusters = best_kmeans(
            own, len(bank) // self.gamma_c, generator, self.kmeans_starts, MAX_ITERATIONS, shown
        )
        return clusters.centres

    def _mean_features(self) -> list[Tensor]:
        """The features [1, C_l, h_l, w_l] of each layer, averaged over all training images."""
        totals: list[Any] = [0.0] * len(self.backbone.layers)
        count = 0
        for batch in progress(self._training_images(), "Averaging features", unit="batch"):
            image = batch.without_padding().image.to(self.device)
            if not len(image):
                continue
            count += len(image)
            for layer, features in enumerate(self._maps(image)):
                totals[layer] = totals[layer] + features.double().sum(0)
        images = sum_over_processes(count, self.device)
        means = []
        for total in totals:
            whole = gather_rows(total[None]).sum(0, keepdim=True)
            means.append((whole / images).float())
        return means

    def _training_images(self) -> DataLoader[Batch]:
        """This process's share of the training images, in order.

        A loader of its own: the trainer's has already begun to read ahead.
        """
        loader = self.trainer.train_dataloader
        sampler = KeySampler(
            loader.dataset, shuffle=False, seed=0, rank=process_rank(), world_size=world_size()
        )
        return DataLoader(
            loader.dataset,
            batch_size=loader.batch_size,
            sampler=sampler,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
        )


def _descriptor(backbone: Backbone, gamma_d: int, seed: int) -> PatchDescriptor:
    channels = sum(shape.channels for shape in backbone.shapes(256, 256))
    if gamma_d > channels:
        raise UsageError(
            f"model.gamma_d {gamma_d} leaves no dimension of {channels} channels; lower it"
        )
    generator = torch.Generator().manual_seed(seed)
    return PatchDescriptor(channels, channels // gamma_d, generator)
