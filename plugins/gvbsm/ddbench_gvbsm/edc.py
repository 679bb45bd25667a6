"""EDC (Shao et al., NeurIPS 2024): real images, and statistics of each class besides those of all. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench_gvbsm.gvbsm import StatisticsMatching
from ddbench_gvbsm.statistics import CategoryStatistics

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import DatasetInfo, DistillTask, Unit

CROPS, FACTOR = 5, 2
"""RDED: crops of each real image, and crops along the side of a distilled image (its scripts for ImageNet)."""


class EDC(StatisticsMatching, frozen=True, extra="forbid"):
    """Optimises real images for several teachers in turn, with the statistics of all images and of each class."""

    name = "edc"
    version = "1"
    paper = "Shao et al., Elucidating the Design Space of Dataset Condensation, NeurIPS 2024 (arXiv 2404.13733)"
    summary = (
        "Starts from real images, or from the images of RDED, and optimises them for several teachers in turn. Means "
        "and variances at BatchNorm layers and convolutions match those of all real images and those of each class. "
        "The predictions stay near those for a moving average of the images, so that the loss is flat around them. "
        "Students learn with small batches, a slow learning rate and an average of their weights (protocol `edc`)."
    )
    departures = (
        "The teachers are networks of torchvision and ddbench; WRN-16-2 and the variants for 32 px are left out. The "
        "statistics of the real images come from central views; those of the released code come from batches of random "
        "crops. Moving averages start anew in each unit. One teacher labels the students' views, unless "
        "`evaluator.teachers` names more."
    )
    cost = (
        "convolutions: images * len(teachers) / 3; categories: images * len(teachers) / 3; distill: classes * ipc * "
        "steps * (4 if flatness_weight else 3) // 3 + (classes * "
        f"max(candidates, {FACTOR**2} * ipc) * {CROPS} // 3 if initial == 'rded' else 0)"
    )
    default_evaluator = "edc"
    starts = ("rded", "real", "noise")

    steps: int = Field(default=2000, ge=1, description="optimisation steps per unit (paper: 2000; CIFAR-10 75)")
    learning_rate: float = Field(default=0.05, gt=0, description="learning rate of Adam, cosine to 0 (paper: 0.05)")
    teachers: tuple[str, ...] = Field(
        default=("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet"),
        min_length=1,
        description="networks of the teachers, which take turns (released code, ImageNet-1K)",
    )
    crop_scale_min: float = Field(
        default=0.5, gt=0, le=1, description="smallest area of the random-resized-crop (paper: 0.5)"
    )
    jitter: int = Field(default=0, ge=0, description="roll by 0..jitter pixels (released code: 0)")
    ema: float = Field(
        default=0.8,
        ge=0,
        lt=1,
        description="decay of the moving average of the statistics of the synthetic images (released code: 0.8; "
        "ImageNet-10 0)",
    )
    initial: str = Field(
        default="rded",
        description="initial images; rded: those of RDED, of 2 x 2 crops (paper, ImageNet-1K and ImageNet-10); real: "
        "random real images (paper, CIFAR and Tiny ImageNet); noise; or a set: a file, a folder or set:DIGEST",
    )
    candidates: int = Field(
        default=300,
        ge=1,
        description="real images of each class whose crops the images of RDED are made of, at least four for each "
        "(scripts of RDED: 300)",
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the statistics of all images; those of classes have the rest (paper: 0.5)",
    )
    categories: Literal["each", "mean"] = Field(
        default="each",
        description="each: the images of each class are compared with their class (paper, Eq. 5); mean: all images of "
        "a unit with the mean over its classes (released code)",
    )
    flatness_weight: float = Field(
        default=0.25, ge=0, description="weight of the flatness (paper, Table 4: 0.25; released scripts: 0)"
    )
    flatness_decay: float = Field(
        default=0.99, ge=0, lt=1, description="decay of the moving average of the images (paper: 0.99, beta)"
    )
    temperature: float = Field(default=4.0, gt=0, description="temperature of the flatness (paper: 4, tau)")

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC for which a class has too few images to start from."""
        needed = (ipc or 0) * {"rded": FACTOR**2, "real": 1}.get(self.initial, 0)
        for name, count in zip(dataset.class_names, dataset.train_counts, strict=True):
            if needed > count:
                return (
                    f"--ipc {ipc} starts from {needed} images of each class (edc.initial={self.initial}), and class "
                    f"'{name}' has {count} training images: lower --ipc, or --set edc.initial=noise"
                )
        return None

    def crop_sources(self, ipc: int) -> int:
        """Returns the number of real images of a class whose crops the images of RDED are made of."""
        return max(self.candidates, FACTOR**2 * ipc)

    def stages(self) -> tuple[str, ...]:
        """Returns the stages of the statistics of the real images."""
        return (*super().stages(), CategoryStatistics.name)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts every image once per step, forward passes of its moving average, and those of the crops of RDED."""
        crops = num_classes * self.crop_sources(ipc) * CROPS // 3 if self.initial == "rded" else 0
        return super().image_passes(num_classes, ipc) * (4 if self.flatness_weight else 3) // 3 + crops

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Returns images that are optimised from real images for all teachers."""
        from ddbench_gvbsm.soft_matching import SoftMatchingLoss, initial_images

        return SoftMatchingLoss(self, task, unit).minimise(initial_images(self, task, unit))
