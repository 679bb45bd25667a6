"""The base class of the methods that select real images class by class. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.api.distiller import Distiller, too_few_images
from ddbench.api.units import Unit, UnitResult, units_of_whole_classes

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ddbench.api.context import DistillTask
    from ddbench.api.dataset import DatasetInfo


class Selection(Distiller, frozen=True, extra="forbid"):
    """Selects IPC distinct real images of each class, with uniform weights. A subclass defines `choose`."""

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the number of images of the smallest class."""
        return too_few_images(dataset, ipc)

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """Returns one unit per class, so that an interrupted run keeps its finished classes."""
        return units_of_whole_classes(num_classes, ipc, ipc)

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """Returns the indices of the selected images of the unit's class."""
        label = unit.slots[0].label
        rows = self.choose(self.describe(task, label), task.ipc, task.generator(self.name, label))
        return UnitResult(indices=task.dataset.train.of_class(label)[rows])

    def describe(self, task: DistillTask, label: int) -> Tensor:
        """Returns what the images of a class are selected by; here the teacher's features, float64 [n, d] with mean 0.

        Args:
            task: The task.
            label: The class.

        Returns:
            Float64, one row per image of the class, in the order of `of_class`.
        """
        # Centre the features in float64: distances do not change, and cancellation with a large common offset is
        # avoided.
        features = task.statistics(label).features.double()
        return features - features.mean(0)

    def choose(self, features: Tensor, count: int, generator: Generator) -> Tensor:
        """Selects the images that represent one class.

        Args:
            features: The result of `describe`.
            count: The number of images to select, at most n.
            generator: A random generator for this class.

        Returns:
            Distinct row indices of `features`, int64 [count].
        """
        raise NotImplementedError
