"""DM: dataset distillation by matching distributions: means of embeddings, Gaussian kernels, DataDAM, IDM.

The entry point of the plugin: hook implementations and the methods' hyper-parameters. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from ddbench.api import DSA_STRATEGY, Distiller, Strategy, Unit, UnitResult, hookimpl, too_few_images

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ddbench.api import DatasetInfo, DistillTask
    from ddbench_dm.matching import Distance, Embed, Networks


class DM(Distiller, frozen=True, extra="forbid"):
    """Optimises images to match the mean embedding of the real images of each class, over many random networks."""

    name = "dm"
    version = "1"
    paper = "Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023 (arXiv 2110.04181)"
    summary = (
        "Optimises images so that their mean embedding equals that of the real images of each class. Every step draws "
        "a network with new random weights, and real and synthetic images get the same random augmentation."
    )
    departures = (
        "The pixels are clamped to [0, 1] and stored as bytes; the released code evaluates unclamped floats, as "
        "`clamp=false` does."
    )
    cost = "distill: steps * classes * (ipc + real_batch // 3)"
    needs_teacher = False
    default_evaluator = "dsa"
    batch_settings: ClassVar[tuple[str, ...]] = ("real_batch",)

    network: str = Field(
        default="convnet-d3",
        description="architecture of the embedding networks, a new one at every step (DM: ConvNet-D3; D4 at 64 px)",
    )
    steps: int = Field(default=20_000, ge=1, description="optimisation steps (DM: 20,000)")
    learning_rate: float = Field(
        default=1.0, gt=0, description="rate of SGD on the pixels, constant (DM: 1; 10 above IPC 50 on CIFAR-10)"
    )
    momentum: float = Field(default=0.5, ge=0, lt=1, description="momentum of SGD on the pixels (DM: 0.5)")
    real_batch: int = Field(
        default=256, ge=2, description="real images of each class per step, at most the whole class (DM: 256)"
    )
    initial: Literal["real", "noise"] = Field(
        default="real",
        description="initial images: random real images, or standard normal noise (DM: real)",
    )
    strategy: Strategy = Field(
        default=DSA_STRATEGY,
        description="operations of siamese augmentation, joined by underscores (DM: all six); null = none",
    )
    clamp: bool = Field(
        default=True,
        # Added later. The default is excluded, so that existing keys and records do not change.
        exclude_if=lambda clamp: clamp,
        description="clamp pixels to [0, 1] after each step and store bytes; false: never clamp, and store floats, "
        "which the protocols dsa and own use (released code)",
    )

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the number of images of the smallest class if the initial images are real."""
        return too_few_images(dataset, ipc) if self.initial == "real" else None

    def networks(self) -> tuple[str, ...]:
        """Returns the embedding network."""
        return (self.network,)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts one pass for each synthetic image, and a third for each real one (forward pass only)."""
        return self.steps * num_classes * (ipc + self.real_batch // 3)

    def embedding(self, network: nn.Module) -> Embed:
        """Returns the function that computes the embeddings: the inputs of the network's final classifier."""
        from ddbench_dm.matching import embedding

        return embedding(network)

    def distill(self, task: DistillTask, unit: Unit) -> Tensor | UnitResult:
        """Returns the images of the whole set."""
        from ddbench_dm.matching import mean_distance

        return self._distill(task, unit, mean_distance)

    def _distill(
        self, task: DistillTask, unit: Unit, distance: Distance, networks: Networks | None = None
    ) -> Tensor | UnitResult:
        from ddbench_dm.matching import distill

        images = distill(self, task, unit, distance, networks)
        return images if self.clamp else UnitResult(images, pixels="unit")


class DMRbf(DM, frozen=True, extra="forbid"):
    """DM with another distance of the embeddings: the squared MMD under a sum of Gaussian kernels."""

    name = "dm-rbf"
    version = "1"
    paper = "Zhang et al., M3D: Dataset Condensation by Minimizing Maximum Mean Discrepancy, AAAI 2024 (loss alone)"
    summary = (
        "DM with another distance of the embeddings: the squared maximum mean discrepancy under a sum of Gaussian "
        "kernels, which compares whole distributions instead of means. It is the loss of M3D."
    )
    departures = (
        "Only the loss is that of M3D, with other bandwidths. M3D also takes several steps for each network and "
        "combines small images into one."
    )

    bandwidths: tuple[float, ...] = Field(
        default=(0.5, 0.5**0.5, 1.0, 2**0.5, 2.0),
        description="bandwidths of the kernels, in units of the median distance of a class's real embeddings in a step "
        "(M3D: the unit is the root of half the mean squared distance of real and synthetic embeddings)",
    )

    @field_validator("bandwidths")
    @classmethod
    def _positive(cls, bandwidths: tuple[float, ...]) -> tuple[float, ...]:
        if not bandwidths or min(bandwidths) <= 0:
            raise ValueError("give at least one bandwidth, and only positive ones")
        return bandwidths

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Also refuses a class of one image, because its median distance, the unit of the bandwidths, is undefined."""
        for name, count in zip(dataset.class_names, dataset.train_counts, strict=True):
            if count < 2:
                return f"class '{name}' has {count} training image; the kernels' bandwidths need two"
        return super().skip(dataset, ipc)

    def distill(self, task: DistillTask, unit: Unit) -> Tensor | UnitResult:
        """Returns the images of the whole set."""
        from ddbench_dm.matching import kernel_match

        return self._distill(task, unit, lambda synthetic, real, _: kernel_match(synthetic, real, self.bandwidths))


class DataDAM(DM, frozen=True, extra="forbid"):
    """DM with attention maps: also matches the mean attention map of every layer but the last."""

    name = "datadam"
    version = "1"
    paper = (
        "Sajedi et al., DataDAM: Efficient Dataset Distillation with Attention Matching, ICCV 2023 (arXiv 2310.00093)"
    )
    summary = (
        "DM with attention maps: matches, for every layer but the last, the mean map of where the network is active, "
        "and for the last layer the mean embedding."
    )
    departures = (
        "The recipes `paper` and `released` differ in the exponent of the maps, the steps and the pixels, as paper and "
        "code do. Students have the epochs and the batch size of the protocol `dsa`. The result is that of the last "
        "step; the released code reports the best of several evaluations on the test images."
    )

    steps: int = Field(default=8_000, ge=1, description="optimisation steps (DataDAM: 8,000; released code: 20,000)")
    real_batch: int = Field(
        default=64, ge=2, description="real images of each class per step, at most the whole class (released code: 64)"
    )
    power: float = Field(
        default=4.0, gt=0, description="exponent of the features in an attention map (DataDAM: 4; released code: 1)"
    )
    output_weight: float = Field(
        default=0.01,
        ge=0,
        description="weight lambda of the mean input of the classifier (DataDAM: 0.01; 0.02 above 32 px)",
    )

    def embedding(self, network: nn.Module) -> Embed:
        """Returns the function that computes attention maps and the inputs of the classifier, weighted."""
        from ddbench_dm.attention import attention_embedding

        return attention_embedding(network, self.power, self.output_weight)


class IDM(DM, frozen=True, extra="forbid"):
    """DM with partly trained networks, a class term, and several small images in each stored image."""

    name = "idm"
    version = "1"
    paper = "Zhao et al., Improved Distribution Matching for Dataset Condensation, CVPR 2023 (arXiv 2307.09742)"
    summary = (
        "DM with three changes. Each stored image holds 2 x 2 small images, which are enlarged for the loss and for "
        "students. The networks are those of a pool, which are trained on real images between the steps. The loss also "
        "has the cross-entropy of the network on the images, in proportion to the network's accuracy."
    )
    departures = (
        "The accuracy of a network is that of its last training; in the released code it is that since the last "
        "evaluation. One step on all classes replaces one step after each class. Decoded images are rounded to bytes "
        "if the stored ones are bytes. The result is that of the last step; the released code also saves the set with "
        "the best accuracy on the test images."
    )
    cost = (
        "distill: steps * (classes * (factor ** 2 * ipc + real_batch // 3) + trained_networks * network_steps * "
        "network_batch)"
    )
    batch_settings: ClassVar[tuple[str, ...]] = ("real_batch", "network_batch")

    learning_rate: float = Field(default=0.2, gt=0, description="rate of SGD on the pixels, constant (IDM: 0.2)")
    factor: int = Field(
        default=2, ge=1, description="small images along a side of a stored image; it divides the image size (IDM: 2)"
    )
    class_weight: float = Field(
        default=0.5,
        ge=0,
        description="weight of the cross-entropy, times the network's accuracy in percent (IDM: 0.5; 0.1 at IPC 50)",
    )
    pool_size: int = Field(default=100, ge=1, description="networks at most; a new one replaces the oldest (IDM: 100)")
    pool_interval: int = Field(default=30, ge=1, description="steps between two new networks (IDM: 30)")
    trained_networks: int = Field(default=2, ge=1, description="random networks that are trained per step (IDM: 2)")
    network_steps: int = Field(default=10, ge=1, description="steps of SGD of each of them (IDM: 10)")
    network_batch: int = Field(default=256, ge=1, description="real images of all classes in each of them (IDM: 256)")
    network_learning_rate: float = Field(default=0.01, gt=0, description="rate of SGD on a network (IDM: 0.01)")
    network_momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD on a network (IDM: 0.9)")
    network_weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of a network (IDM: 0.0005)")

    def decode_factor(self) -> int:
        """Returns the number of small images along a side of a stored image."""
        return self.factor

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts as DM does, with every small image, and the training of the networks."""
        training = self.trained_networks * self.network_steps * self.network_batch
        return self.steps * (num_classes * (self.factor**2 * ipc + self.real_batch // 3) + training)

    def embedding(self, network: nn.Module) -> Embed:
        """Returns the function that computes the inputs of the classifier and the logits."""
        from ddbench_dm.pool import embedding_and_logits

        return embedding_and_logits(network)

    def distill(self, task: DistillTask, unit: Unit) -> Tensor | UnitResult:
        """Returns the images of the whole set."""
        from ddbench_dm.pool import NetworkPool

        pool = NetworkPool(self, task)
        return self._distill(task, unit, pool.distance, pool)


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    """Returns DM, its variant with Gaussian kernels, DataDAM and IDM."""
    return [DM, DMRbf, DataDAM, IDM]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    """Returns the recipes of these methods."""
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
