"""Full: the whole training set, the reference for distillation. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.api.distiller import Distiller
from ddbench.api.units import Unit, UnitResult

if TYPE_CHECKING:
    from ddbench.api.context import DistillTask


class Full(Distiller, frozen=True, extra="forbid"):
    """Uses every training image. The student is trained on hard labels with the teacher's hyper-parameters."""

    name = "full"
    version = "1"
    paper = "reference: the whole dataset"
    summary = "Trains the student on the whole training set with class labels. It is the upper reference."
    cost = "none"
    needs_teacher = False
    needs_ipc = False
    default_evaluator = "full-data"

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """Returns one unit without slots; its images are the training set."""
        return [Unit(0, ())]

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """Returns the indices of all training images, in order."""
        import torch

        return UnitResult(indices=torch.arange(len(task.dataset.train)))
