"""RDED: crops of real images that the teacher finds most like their class, stitched together. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ddbench.api.distiller import Distiller
from ddbench.api.units import Unit, UnitResult, units_of_whole_classes

if TYPE_CHECKING:
    from ddbench.api.context import DistillTask
    from ddbench.api.dataset import DatasetInfo


class RDED(Distiller, frozen=True, extra="forbid"):
    """The most realistic crop of each of many real images; factor^2 of the best make one image. No optimisation."""

    name = "rded"
    version = "1"
    paper = "Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024 (arXiv 2312.03526)"

    candidates: int = Field(
        default=300,
        ge=1,
        description="random training images a class that crops are taken from, or the whole class where it has fewer "
        "(released scripts: 300)",
    )
    crops: int = Field(
        default=5,
        ge=1,
        description="random crops of a candidate, of which the one of lowest loss is kept (released scripts: 5)",
    )
    factor: int = Field(
        default=2,
        ge=1,
        description="an image is factor x factor crops (released scripts: 2 for the ImageNet sets, 1 for CIFAR and "
        "Tiny ImageNet)",
    )

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses where there are not factor^2 x IPC candidates in every class: an image gives one crop."""
        if self.factor > dataset.image_size:
            return f"rded.factor {self.factor} is more than the {dataset.image_size} pixels of an image's side"
        needed = self.factor**2 * (ipc or 0)
        takes = f"--ipc {ipc} takes {needed} crops a class, each of another image"
        for name, count in zip(dataset.class_names, dataset.train_counts, strict=True):
            if needed > count:
                return f"{takes}, and class '{name}' has {count} training images: lower --ipc or rded.factor"
        if needed > self.candidates:
            return f"{takes}, and rded.candidates is {self.candidates}: --set rded.candidates={needed} or more"
        return None

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """One class a unit: the crops of a class are ranked together."""
        return units_of_whole_classes(num_classes, ipc, ipc)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Every crop goes forward through the teacher once, and none backward: a third of the cost."""
        return num_classes * self.candidates * self.crops // 3

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """The stitched images of the unit's class."""
        from ddbench.methods.patches import distill

        return distill(task, unit, self.candidates, self.crops, self.factor)
