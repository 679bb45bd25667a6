"""The whole training set: the reference that distillation is measured against. It has no IPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.api.distiller import Distiller
from ddbench.api.units import Unit, UnitResult

if TYPE_CHECKING:
    from ddbench.api.context import DistillTask


class Full(Distiller, frozen=True, extra="forbid"):
    """Every training image; the student is trained by the teacher's own recipe on hard labels."""

    name = "full"
    version = "1"
    paper = "reference: the whole dataset"
    needs_teacher = False
    needs_ipc = False
    default_evaluator = "full-data"

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """One unit without slots: its images are the training set."""
        return [Unit(0, ())]

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """All indices, in order."""
        import torch

        return UnitResult(indices=torch.arange(len(task.dataset.train)))
