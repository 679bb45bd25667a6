"""Random: draws real images at random, the baseline for every method. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.api.distiller import Distiller, too_few_images
from ddbench.api.units import Unit, UnitResult

if TYPE_CHECKING:
    from ddbench.api.context import DistillTask
    from ddbench.api.dataset import DatasetInfo


class Random(Distiller, frozen=True, extra="forbid"):
    """Draws IPC real images of each class without replacement, seeded by (seed of the set, class)."""

    name = "random"
    version = "1"
    paper = "baseline: random real images"
    needs_teacher = False
    summary = (
        "Draws IPC real images of each class without replacement. It is the baseline that a method should beat under "
        "the same protocol."
    )
    cost = "none"

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the number of images of the smallest class."""
        return too_few_images(dataset, ipc)

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """Returns the indices of the drawn images."""
        import torch

        indices = [task.sample(label, task.ipc, "random") for label in range(task.info.num_classes)]
        return UnitResult(indices=torch.cat(indices))
