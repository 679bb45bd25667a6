"""What a protocol is: the Evaluator base class and the metrics it reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, Field, ValidationError

from ddbench.core.errors import DDBenchError
from ddbench.core.text import error_text

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask


Percent = Annotated[float, Field(ge=0, le=100)]


class Metrics(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """What one student reached on all of the dataset's `val` images. Accuracies in percent."""

    top1_last: Percent = Field(description="top-1 after the last epoch: the result")
    top1_best: Percent | None = Field(
        default=None, description="best epoch, chosen on what is measured on: never a result; None if not tracked"
    )
    top1_selected: Percent | None = Field(
        default=None, description="top-1 after `selected_epoch`; None where the protocol selects no epoch"
    )
    selected_epoch: int | None = Field(
        default=None, ge=1, description="best epoch (from 1) on distilled images that were held out; None as above"
    )
    per_class: list[Percent] = Field(description="top-1 of each class, in class order")
    student_steps: int = Field(ge=0, description="optimiser steps of the student")
    label_bytes: int = Field(ge=0, description="bytes of labels that the student consumed or that were stored")
    image_bytes: int = Field(ge=0, description="bytes of the distilled images (uint8)")
    regime: str = Field(description="label regime: fkd, soft, hard")


def check_metrics(metrics: object, classes: int, who: str) -> Metrics:
    """What a protocol handed back, refused where it cannot be.

    Raises DDBenchError that begins with `who` ("evaluator 'fkd' of ddbench") and says what is wrong.
    """
    if not isinstance(metrics, Metrics):
        raise DDBenchError(f"{who} returned {type(metrics).__name__}, not Metrics")
    try:
        checked = Metrics(**dict(metrics))  # `model_copy` and `model_construct` check nothing
    except ValidationError as error:
        raise DDBenchError(f"{who} returned {error_text(error)}") from error
    if len(checked.per_class) != classes:
        raise DDBenchError(f"{who} returned top-1 of {len(checked.per_class)} classes, not {classes}")
    return checked


class Evaluator(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """A protocol: how a student is trained on a distilled set and measured. Its fields are its parameters.

    `version` is printed with every number and part of the key: bump it when results change.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    paper: ClassVar[str] = ""
    needs_teacher: ClassVar[bool] = True
    on_real_data: ClassVar[bool] = False

    def skip(self, ipc: int | None) -> str | None:
        """A reason why it cannot take a set of `ipc` images a class (None: all), or None. Asked before training."""
        return None

    def image_passes(self, images: int) -> int:
        """Images put forward and backward through the student for a set of `images`: for the time estimate only."""
        return 0

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student from scratch with one seed and measures it."""
        raise NotImplementedError
