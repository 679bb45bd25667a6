"""RDED: stitches the crops of real images with the lowest teacher loss. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ddbench.api.distiller import Distiller
from ddbench.api.units import Unit, UnitResult, units_of_whole_classes

if TYPE_CHECKING:
    from ddbench.api.context import DistillTask
    from ddbench.api.dataset import DatasetInfo


class RDED(Distiller, frozen=True, extra="forbid"):
    """Selects the crops of real images with the lowest teacher loss and stitches factor^2 of them into each image."""

    name = "rded"
    version = "1"
    paper = "Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024 (arXiv 2312.03526)"
    default_evaluator = "rded"
    summary = (
        "Cuts random crops from real images, keeps the crop of each image that has the lowest teacher loss, and "
        "stitches factor x factor of the best crops into one image. Nothing is optimised. Students get soft labels for "
        "views in which the crops are shuffled (protocol `rded`)."
    )
    departures = (
        "Crops come from the stored images instead of the original files, and the images are stored without JPEG "
        "compression. The teacher is that of the recipe, not the authors'."
    )
    cost = "distill: classes * candidates * crops // 3"
    caveat = "its crops are made for the protocol rded"

    candidates: int = Field(
        default=300,
        ge=1,
        description="random training images of each class that crops are taken from, at most the whole class "
        "(released scripts: 300)",
    )
    crops: int = Field(
        default=5,
        ge=1,
        description="random crops of each candidate; the one of lowest loss is kept (released scripts: 5)",
    )
    factor: int = Field(
        default=2,
        ge=1,
        description="an image is composed of factor x factor crops (released scripts: 2 for the ImageNet sets, "
        "1 for CIFAR and Tiny ImageNet)",
    )

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC that needs more candidates than a class has: factor^2 x IPC, one crop from each."""
        if self.factor > dataset.image_size:
            return f"rded.factor {self.factor} is more than the {dataset.image_size} pixels of an image's side"
        needed = self.factor**2 * (ipc or 0)
        reason = f"--ipc {ipc} needs {needed} crops for each class, each from a different image"
        for name, count in zip(dataset.class_names, dataset.train_counts, strict=True):
            if needed > count:
                return f"{reason}, and class '{name}' has {count} training images: lower --ipc or rded.factor"
        if needed > self.candidates:
            return f"{reason}, and rded.candidates is {self.candidates}: --set rded.candidates={needed} or more"
        return None

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """Returns one unit per class, because the crops of a class are ranked together."""
        return units_of_whole_classes(num_classes, ipc, ipc)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts a third of a pass for each crop (forward pass of the teacher only)."""
        return num_classes * self.candidates * self.crops // 3

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """Returns the stitched images of the unit's class."""
        from ddbench.training import stitched_patches

        label = unit.slots[0].label
        return UnitResult(images=stitched_patches(task, label, self.candidates, self.crops, self.factor))
