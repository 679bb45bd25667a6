"""G-VBSM (Shao et al., CVPR 2024), and the settings that it shares with EDC. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench.api import Distiller, RecoverSettings, Unit, units_of_whole_classes
from ddbench_gvbsm.statistics import ConvolutionSettings, ConvolutionStatistics

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import DistillTask


class StatisticsMatching(ConvolutionSettings, RecoverSettings, Distiller, frozen=True, extra="forbid"):
    """The settings of a method that matches statistics of several teachers in turn, at BatchNorms and convolutions."""

    crop_per_image: bool = Field(
        default=False, description="draw crop and flip for each image; false: once per step (released code)"
    )
    statistics_weight: float = Field(
        default=0.01,
        ge=0,
        description="weight of the statistics of all layers (released scripts, r-loss: 0.01; EDC on ImageNet-1K 0.1)",
    )
    first_scale: float = Field(
        default=10.0, ge=0, description="factor on the first layer (released code: 10, first-multiplier)"
    )
    ema: float = Field(
        default=0.4,
        ge=0,
        lt=1,
        description="decay of the moving average of the statistics of the synthetic images (released code: ImageNet-1K "
        "0.4; CIFAR, Tiny ImageNet 0.8)",
    )
    ema_start: Literal["first", "zero"] = Field(
        default="first",
        description="the average starts with the first statistics, or with zero (released code, by its type test)",
    )
    drop: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability that a convolution is left out of a step (released code: CIFAR, Tiny ImageNet 0.4; "
        "ImageNet-1K 0; EDC 0)",
    )

    def stages(self) -> tuple[str, ...]:
        """Returns the stage of the statistics of the real images."""
        return (ConvolutionStatistics.name,)

    def teacher_pool(self) -> tuple[str, ...]:
        """Returns the networks of the teachers."""
        return self.teachers

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """Returns units of whole classes, as terms of the loss need all images of a class."""
        return units_of_whole_classes(num_classes, ipc, self.batch_size)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts every image once per step."""
        return num_classes * ipc * self.steps


class GVBSM(StatisticsMatching, frozen=True, extra="forbid"):
    """Optimises images for several teachers in turn, at their BatchNorm layers and at their convolutions."""

    name = "gvbsm"
    version = "1"
    paper = (
        "Shao et al., Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching, "
        "CVPR 2024 (arXiv 2311.17950)"
    )
    summary = (
        "Optimises images from noise for several teachers in turn. Besides the cross-entropy, means and variances "
        "match those of the real images, at BatchNorm layers and at convolutions, for channels and for patches. A "
        "further term flattens the eigenvalues of the Gram matrix of each class, so that the images of a class differ. "
        "Students learn from the mean logits of the teachers (protocol `gvbsm`)."
    )
    departures = (
        "The teachers are networks of torchvision and ddbench; WRN-16-2 and the variants for 32 px are left out. The "
        "statistics of the real images come from central views; those of the released code come from batches of random "
        "crops. With `paper`, moving averages start with the first statistics, with `released` at zero, as in the "
        "code."
    )
    cost = "convolutions: images * len(teachers) / 3; distill: classes * ipc * steps"
    default_evaluator = "gvbsm"

    steps: int = Field(
        default=4000, ge=1, description="optimisation steps per unit; the teachers take turns (released scripts: 4000)"
    )
    learning_rate: float = Field(
        default=0.1,
        gt=0,
        description="learning rate of Adam, cosine to 0 (released scripts: ImageNet-1K 0.1; CIFAR, Tiny ImageNet 0.05)",
    )
    padding: int = Field(
        default=0,
        ge=0,
        description="in place of the random-resized-crop, crop the images after padding them by so many pixels of the "
        "mean colour, once per step (released code: CIFAR 4, Tiny ImageNet 8); 0: random-resized-crop (ImageNet-1K)",
    )
    density_weight: float = Field(
        default=1.0, ge=0, description="weight of the density of each class (released scripts: 1, nuc-norm)"
    )
    temperature: float = Field(
        default=4.0, gt=0, description="temperature of the eigenvalues that are its target (released code: 4, tau)"
    )

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Returns images that are optimised from noise for all teachers."""
        from ddbench_gvbsm.density import DensityLoss

        return DensityLoss(self, task, unit).minimise(task.noise(unit))
