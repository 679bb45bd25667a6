"""The base class of measures: numbers beside top-1, of a trained student or of a distilled set. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import BaseModel

from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddbench.api.context import Progress
    from ddbench.api.dataset import DatasetInfo
    from ddbench.api.images import DistilledImages, RealData
    from ddbench.api.teacher import ClassStatistics, Teacher

Need = Literal["student", "set", "teacher"]
"""What a measure can need besides the real data."""


class Refusal(DDBenchError):
    """A measure cannot give a meaningful number here. The record then holds the reason in place of values."""


class MeasureTask(Protocol):
    """The argument of `Measure.compute`. A member that the measure does not declare in `needs` raises an error."""

    @property
    def dataset(self) -> RealData:
        """The real data. `dataset.val` are the images that accuracy is measured on."""

    @property
    def student(self) -> nn.Module:
        """The trained student on `device`, in evaluation mode, with frozen parameters. Needs "student"."""

    @property
    def distilled(self) -> DistilledImages:
        """The distilled set. Needs "set"."""

    @property
    def teacher(self) -> Teacher:
        """The teacher on `device`. Needs "teacher"."""

    @property
    def device(self) -> torch.device:
        """The device to compute on."""

    @property
    def precision(self) -> str:
        """`fp32` or `bf16`, for `ddbench.nn.autocast`."""

    @property
    def report(self) -> Progress:
        """Reports progress as `report(step, total)`."""

    def statistics(self, label: int) -> ClassStatistics:
        """Returns the teacher's features of the real training images of one class. Needs "teacher"."""

    def generator(self, *names: str | int) -> torch.Generator:
        """Returns a CPU generator seeded by the measure's name and `names`: the same for all students and sets."""


class Measure(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """Computes a few numbers of a trained student or of a distilled set. `--measure NAME` computes them.

    Subclass it, declare the parameters as pydantic fields, implement `compute`, and register the class with the hook
    `ddbench_measures`. Every parameter is part of the cache key and can be changed with `--set NAME.FIELD=VALUE`.

    Attributes:
        name: Name on the command line and in records.
        version: Part of the cache key. Increase it when results change.
        paper: Citation of the definition.
        needs: What the measure uses besides the real data. The cache key covers it, so numbers of a set are computed
            once for all its students.

    Example:
        The mean brightness of the distilled images:

            from ddbench.api import Measure, hookimpl


            class Brightness(Measure):
                name = "brightness"
                version = "1"
                needs = ("set",)

                def compute(self, task):
                    return {"brightness": float(task.distilled.images.float().mean()) / 255}


            @hookimpl
            def ddbench_measures():
                return [Brightness]
    """

    name: ClassVar[str]
    version: ClassVar[str]
    paper: ClassVar[str] = ""
    needs: ClassVar[tuple[Need, ...]]

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Decides whether the measure can be computed. Called before anything is trained.

        Args:
            dataset: Names, counts and sizes of the real data.
            ipc: Images per class. None: the whole training set.

        Returns:
            The reason to refuse the run, or None.
        """
        return None

    def image_passes(self, dataset: DatasetInfo) -> float:
        """Counts forward-and-backward passes of one image through a network, for the time estimate only.

        Args:
            dataset: Names, counts and sizes of the real data.

        Returns:
            Number of passes. 0: unknown.
        """
        return 0.0

    def compute(self, task: MeasureTask) -> dict[str, float]:
        """Computes the values.

        Args:
            task: What the measure may use.

        Returns:
            Finite numbers by name. A number with the name of the measure is the column `measure.NAME` of frames, others
            are `measure.NAME.VALUE`.

        Raises:
            Refusal: There is no meaningful number, e.g. because the sample is too small.
        """
        raise NotImplementedError


def check_values(values: object, owner: str) -> dict[str, float]:
    """Validates the return value of `Measure.compute`.

    Args:
        values: The returned value.
        owner: The measure, for the message, e.g. `measure 'ece' of ddbench`.

    Returns:
        The values as Python floats.

    Raises:
        DDBenchError: It is no dict of finite numbers by name, or it is empty.

    Example:
        >>> check_values({"ece": 1}, "measure 'ece'")
        {'ece': 1.0}
    """
    if not isinstance(values, Mapping) or not values:
        raise DDBenchError(f"{owner} returned {values if values == {} else type(values).__name__}, not numbers by name")
    for name, value in values.items():
        if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_+-]+", name)):
            raise DDBenchError(f"{owner} returned the name {name!r}: use letters, digits and _ + -")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DDBenchError(f"{owner} returned {name} = {value!r}, not a finite number")
    return {name: float(value) for name, value in values.items()}
