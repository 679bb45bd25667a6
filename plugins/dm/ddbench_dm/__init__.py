"""DM: dataset distillation by matching the distributions of embeddings, of their means or under Gaussian kernels.

The plugin's entry point: hook implementations and the methods' hyper-parameters. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from ddbench.api import DSA_STRATEGY, Distiller, Strategy, Unit, hookimpl, too_few_images

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import DatasetInfo, DistillTask


class DM(Distiller, frozen=True, extra="forbid"):
    """Images whose mean embedding is that of their class, under many freshly initialised networks."""

    name = "dm"
    version = "1"
    paper = "Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023 (arXiv 2110.04181)"
    needs_teacher = False

    network: str = Field(
        default="convnet-d3",
        description="architecture of the embedding networks, a fresh one a step (DM: ConvNet-D3; D4 at 64 px)",
    )
    steps: int = Field(default=20_000, ge=1, description="optimisation steps (DM: 20,000)")
    learning_rate: float = Field(
        default=1.0, gt=0, description="rate of SGD on the pixels, constant (DM: 1; 10 above IPC 50 on CIFAR-10)"
    )
    momentum: float = Field(default=0.5, ge=0, lt=1, description="momentum of SGD on the pixels (DM: 0.5)")
    real_batch: int = Field(
        default=256, ge=2, description="real images of each class a step, at most all of them (DM: 256)"
    )
    initial: Literal["real", "noise"] = Field(
        default="real", description="start: random real images of the class, or standard normal noise (DM: real)"
    )
    strategy: Strategy = Field(
        default=DSA_STRATEGY,
        description="operations of siamese augmentation, joined by underscores (DM: all six); null = none",
    )

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses more images than the class has, where they are to start from real ones."""
        return too_few_images(dataset, ipc) if self.initial == "real" else None

    def networks(self) -> tuple[str, ...]:
        """The embedding network."""
        return (self.network,)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Images forward and backward through the network; a real one goes forward alone, a third of that."""
        return self.steps * num_classes * (ipc + self.real_batch // 3)

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Optimises all images together."""
        from ddbench.losses import mean_match
        from ddbench_dm.matching import distill

        return distill(self, task, unit, mean_match)


class DMRbf(DM, frozen=True, extra="forbid"):
    """DM with the whole distribution in place of its mean: squared MMD under a sum of Gaussian kernels."""

    name = "dm-rbf"
    version = "1"
    paper = "Zhang et al., M3D: Dataset Condensation by Minimizing Maximum Mean Discrepancy, AAAI 2024 (loss alone)"

    bandwidths: tuple[float, ...] = Field(
        default=(0.5, 0.5**0.5, 1.0, 2**0.5, 2.0),
        description="of the kernels, in units of the median distance of the class's real embeddings in that step "
        "(M3D: such a ladder about the root of half the mean squared distance of real and synthetic ones)",
    )

    @field_validator("bandwidths")
    @classmethod
    def _positive(cls, bandwidths: tuple[float, ...]) -> tuple[float, ...]:
        if not bandwidths or min(bandwidths) <= 0:
            raise ValueError("at least one is needed, and all above 0")
        return bandwidths

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses also a class of one image: it has no distance to take a bandwidth from."""
        for name, count in zip(dataset.class_names, dataset.train_counts, strict=True):
            if count < 2:
                return f"class '{name}' has {count} training image; the kernels' bandwidths need two"
        return super().skip(dataset, ipc)

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Optimises all images together."""
        from ddbench_dm.matching import distill, kernel_match

        return distill(self, task, unit, lambda synthetic, real: kernel_match(synthetic, real, self.bandwidths))


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    return [DM, DMRbf]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
