"""The length of a student's training, in epochs or optimiser steps, and where it is measured. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, field_validator, model_validator

from ddbench.api.evaluator import Evaluator
from ddbench.config.schema import is_none
from ddbench.core.errors import DDBenchError
from ddbench.core.text import counted

if TYPE_CHECKING:
    from ddbench.training.schedules import Schedule

T = TypeVar("T")
SETTINGS = ("epochs", "steps")
"""The settings of the length; a protocol has one of them."""


@dataclass(frozen=True)
class Length:
    """The length of a training run. The last epoch may be shorter than the others.

    Attributes:
        steps: The optimiser steps of the run.
        steps_per_epoch: The optimiser steps of a whole epoch.

    Example:
        >>> length = Length(steps=5, steps_per_epoch=2)
        >>> length.epochs, [list(length.batches(epoch, "ab")) for epoch in range(3)]
        (3, [['a', 'b'], ['a', 'b'], ['a']])
    """

    steps: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """The epochs of the run, with the shorter last one."""
        return math.ceil(self.steps / self.steps_per_epoch)

    @property
    def exact_epochs(self) -> float:
        """The epochs of the run, e.g. 2.5."""
        return self.steps / self.steps_per_epoch

    def batches(self, epoch: int, batches: Iterable[T]) -> Iterator[T]:
        """Yields the batches of an epoch that the run uses: in the last epoch, perhaps only the first ones."""
        return islice(batches, self.steps - epoch * self.steps_per_epoch)

    def schedule(self, schedule: Schedule) -> Schedule:
        """Returns a schedule over `exact_epochs`, in place of the number of started epochs."""
        return lambda epoch, _: schedule(epoch, self.exact_epochs)


class EpochsOrSteps(Evaluator, frozen=True, extra="forbid"):
    """A protocol that trains for a number of epochs, or for a number of optimiser steps on a set of any size.

    With `steps`, the last epoch ends after the last step. The learning rate changes at the beginning of an epoch, as
    with `epochs`: in epoch e (from 0) it is that of e epochs of `steps` / (steps of an epoch).
    """

    # Settings with `exclude_if` were added later. Their default is excluded from keys and records, so that existing
    # ones remain valid.

    epochs: int | None = Field(default=300, ge=1, description="epochs over the distilled set; null with steps")
    steps: int | None = Field(
        default=None,
        ge=1,
        exclude_if=is_none,
        description="optimiser steps, in place of epochs; the last epoch may be shorter; null = epochs",
    )
    measure_at: tuple[int, ...] = Field(
        default=(),
        exclude_if=lambda steps: not steps,
        description="optimiser steps after which the student is also measured, e.g. [10, 100]: the curve of the record",
    )
    batch_size: int = Field(default=100, ge=1, description="images per step")

    @model_validator(mode="before")
    @classmethod
    def _replace_epochs(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or settings.get("steps") is None:
            return settings
        return {"epochs": None, **settings}

    @field_validator("measure_at")
    @classmethod
    def _require_increasing(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if any(step <= before for before, step in pairwise((0, *steps))):
            raise ValueError("increasing numbers of steps from 1 are needed")
        return steps

    @model_validator(mode="after")
    def _require_one_length(self) -> EpochsOrSteps:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps: give one of them (for the other, null)")
        if self.epochs is None and self.steps is None:
            raise ValueError("epochs: a number is needed, or steps")
        if self.steps is not None and (problem := self._measured_too_late(self.steps)):
            raise ValueError(problem)
        return self

    def _measured_too_late(self, steps: int) -> str | None:
        if not self.measure_at or self.measure_at[-1] <= steps:
            return None
        return f"measure_at: the student takes {counted(steps, 'optimiser step')}, not {self.measure_at[-1]}"

    def length(self, steps_per_epoch: int) -> Length:
        """Returns the length of a student's training.

        Args:
            steps_per_epoch: The optimiser steps of a whole epoch.

        Raises:
            DDBenchError: The student is to be measured after more steps than it takes.
        """
        steps = self.steps if self.epochs is None else self.epochs * steps_per_epoch
        assert steps is not None
        if problem := self._measured_too_late(steps):
            raise DDBenchError(f"evaluator.{problem}")
        return Length(steps, steps_per_epoch)

    def image_passes(self, images: int) -> int:
        """Counts every image once per epoch."""
        if self.epochs is not None:
            return images * self.epochs
        return round(images * self.length(math.ceil(images / self.batch_size)).exact_epochs)
