"""What the methods share that pick real images by the teacher's features. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.api.distiller import Distiller, too_few_images
from ddbench.api.units import Unit, UnitResult, units_of_whole_classes

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ddbench.api.context import DistillTask
    from ddbench.api.dataset import DatasetInfo


class Selection(Distiller, frozen=True, extra="forbid"):
    """IPC different real images of each class, which `choose` picks by their features; uniform weights."""

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the smallest class."""
        return too_few_images(dataset, ipc)

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """One class a unit: a run that is stopped keeps the classes it has."""
        return units_of_whole_classes(num_classes, ipc, ipc)

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """The chosen images of the unit's class."""
        label = unit.slots[0].label
        # Less their mean, in float64: no distance changes, and a large common offset costs no digits.
        features = task.statistics(label).features.double()
        chosen = self.choose(features - features.mean(0), task.ipc, task.generator(self.name, label))
        return UnitResult(indices=task.dataset.train.of_class(label)[chosen])

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """Different rows of `features`, int64 [count]: the images that stand for one class.

        `features` float64 [n, d] of mean 0, n at least `count`; `generator` is this class's own.
        """
        raise NotImplementedError
