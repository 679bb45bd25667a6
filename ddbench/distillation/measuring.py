"""The argument of measures: implements `MeasureTask` of `ddbench.api.measure`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ddbench.api.context import Progress
from ddbench.api.images import DistilledImages
from ddbench.api.teacher import ClassStatistics
from ddbench.core import seeds
from ddbench.data.dataset import Dataset
from ddbench.nn.taps import TappedNetwork


@dataclass(frozen=True)
class MeasureContext:
    """Everything that a measure may use.

    Args:
        name: The name of the measure.
        dataset: The real data.
        device: The device to compute on.
        precision: `fp32` or `bf16`.
        report: Reports progress as `report(step, total)`.
        statistics: Returns the statistics of a class's real images.
    """

    name: str
    dataset: Dataset
    device: torch.device
    precision: str
    report: Progress
    statistics: Callable[[int], ClassStatistics]
    _student: Callable[[], nn.Module]
    _distilled: Callable[[], DistilledImages]
    _teacher: Callable[[], TappedNetwork]

    @property
    def student(self) -> nn.Module:
        """The trained student on `device`, in evaluation mode, with frozen parameters."""
        return self._student()

    @property
    def distilled(self) -> DistilledImages:
        """The distilled set."""
        return self._distilled()

    @property
    def teacher(self) -> TappedNetwork:
        """The teacher on `device`, in evaluation mode, with frozen parameters."""
        return self._teacher()

    def generator(self, *names: str | int) -> torch.Generator:
        """Returns a CPU generator seeded by the measure's name and `names`: the same for all students and sets."""
        return seeds.generator("measure", self.name, *names)
