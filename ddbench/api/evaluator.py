"""The base class of evaluation protocols and the metrics that they return. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from ddbench.core.errors import DDBenchError
from ddbench.core.text import error_text

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask


Percent = Annotated[float, Field(ge=0, le=100)]
"""A percentage in [0, 100]."""


class Metrics(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """The result of one student on all `val` images of the dataset. Accuracies are percentages.

    A protocol that neither tracks a best epoch nor selects an epoch leaves the fields for them None. `top1_best` is
    chosen on the data that it is measured on and is therefore never shown as the result.
    """

    top1_last: Percent = Field(description="top-1 after the last epoch: the result")
    top1_best: Percent | None = Field(
        default=None,
        description="top-1 of the best epoch, chosen on the images measured on: never a result; None if not tracked",
    )
    top1_selected: Percent | None = Field(
        default=None, description="top-1 after `selected_epoch`; None if the protocol selects no epoch"
    )
    selected_epoch: int | None = Field(
        default=None,
        ge=1,
        description="best epoch (from 1) on held-out distilled images; None if the protocol selects no epoch",
    )
    curve: list[tuple[int, Percent]] | None = Field(
        default=None,
        # Added later. The default is excluded, so that existing records do not change.
        exclude_if=lambda curve: curve is None,
        description="top-1 of this student during its training by optimiser steps, in increasing order; the last point "
        "is the result; None if it was measured at the end only",
    )
    per_class: list[Percent] = Field(description="top-1 of each class, in class order")
    student_steps: int = Field(ge=0, description="optimiser steps of the student")
    label_bytes: int = Field(ge=0, description="bytes of the labels that the student used or that were stored")
    image_bytes: int = Field(ge=0, description="bytes of the distilled images as stored (uint8 or float32)")
    regime: str = Field(description="label regime: fkd, soft, hard")

    @model_validator(mode="after")
    def _require_curve_to_the_result(self) -> Metrics:
        if self.curve is None:
            return self
        steps = [step for step, _ in self.curve]
        if sorted(set(steps)) != steps or self.curve[-1:] != [(self.student_steps, self.top1_last)]:
            raise ValueError("curve: steps must increase, and the last point must be student_steps and top1_last")
        return self


def check_metrics(metrics: object, classes: int, owner: str) -> Metrics:
    """Validates the return value of `Evaluator.evaluate`.

    Args:
        metrics: The returned value.
        classes: Number of classes of the dataset.
        owner: The evaluator, for the message, e.g. `evaluator 'fkd' of ddbench`.

    Returns:
        The validated metrics.

    Raises:
        DDBenchError: `metrics` is not Metrics, a value is out of range, or the number of classes is wrong.
    """
    if not isinstance(metrics, Metrics):
        raise DDBenchError(f"{owner} returned {type(metrics).__name__}, not Metrics")
    try:
        checked = Metrics(**dict(metrics))  # `model_copy` and `model_construct` do not validate
    except ValidationError as error:
        raise DDBenchError(f"{owner} returned {error_text(error)}") from error
    if len(checked.per_class) != classes:
        raise DDBenchError(f"{owner} returned top-1 of {len(checked.per_class)} classes, not {classes}")
    return checked


class Evaluator(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """An evaluation protocol: trains a student on a distilled set and measures it.

    Subclass it, declare the parameters as pydantic fields, implement `evaluate`, and register the class with the hook
    `ddbench_evaluators`. Every parameter is part of the cache key and can be changed with
    `--set evaluator.FIELD=VALUE`.

    Attributes:
        name: Name on the command line and in records.
        version: Printed with every number and part of every cache key. Increase it when results change.
        paper: Citation, shown next to the name.
        needs_teacher: Whether the protocol uses `task.teacher`.
        on_real_data: Whether the student trains on the real dataset instead of a distilled set.
        batch_settings: Names of the fields that bound the memory of `evaluate`. An out-of-memory error names them.
        uses: Which of "pixels", "soft_labels" and "learning_rate" of `task.distilled` the protocol uses besides uint8
            images, labels and weights. If a set has more than the protocol uses, a note says so.
        for_one_set: Whether the settings belong to one distilled set, e.g. its stored labels. `ddbench evaluate` then
            evaluates no random images beside it.

    Example:
        A protocol that trains on hard labels for a fixed number of steps:

            from ddbench.api import Evaluator, Metrics, hookimpl
            from pydantic import Field


            class Plain(Evaluator):
                name = "plain"
                version = "1"
                needs_teacher = False

                steps: int = Field(default=100, ge=1, description="optimiser steps")

                def evaluate(self, task):
                    import torch
                    from torch.nn import functional

                    data = task.dataset
                    student = task.student().to(task.device).train()
                    images = data.normalise(task.images).to(task.device)
                    labels = task.labels.to(task.device)
                    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
                    for step in range(self.steps):
                        loss = functional.cross_entropy(student(images), labels)
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                        task.report(step + 1, self.steps, loss=float(loss))

                    student.eval()
                    per_class = []
                    for label in range(data.info.num_classes):
                        views = data.evaluation_view("val", data.val.of_class(label)).to(task.device)
                        with torch.no_grad():
                            hits = student(views).argmax(1) == label
                        per_class.append(100 * float(hits.float().mean()))
                    counts = torch.tensor(data.info.val_counts)
                    return Metrics(
                        top1_last=float((torch.tensor(per_class) * counts).sum() / counts.sum()),
                        per_class=per_class,
                        student_steps=self.steps,
                        label_bytes=task.labels.nbytes,
                        image_bytes=task.distilled.image_bytes,
                        regime="hard",
                    )


            @hookimpl
            def ddbench_evaluators():
                return [Plain]
    """

    name: ClassVar[str]
    version: ClassVar[str]
    paper: ClassVar[str] = ""
    needs_teacher: ClassVar[bool] = True
    on_real_data: ClassVar[bool] = False
    batch_settings: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    for_one_set: ClassVar[bool] = False

    def skip(self, ipc: int | None) -> str | None:
        """Decides whether the protocol can evaluate a set. Called before anything is trained.

        Args:
            ipc: Images per class. None: all training images.

        Returns:
            The reason to refuse, or None.
        """
        return None

    @classmethod
    def default_student(cls, image_size: int) -> str | None:
        """Returns the network of the student if the user does not choose one (`--student`).

        Args:
            image_size: Side of the images in pixels.

        Returns:
            The name of a network, or None for the network of the teacher.
        """
        return None

    def teacher_pool(self) -> tuple[str, ...]:
        """Returns the architectures of the teachers that the protocol uses (`task.teachers`).

        Each is trained with the settings of the teacher and cached as one. Default: none besides the configured one.
        """
        return ()

    def image_passes(self, images: int) -> int:
        """Counts forward-and-backward passes of the student, for the time estimate only.

        Args:
            images: Number of images in the set.

        Returns:
            Number of passes of one image. 0: unknown.
        """
        return 0

    def label_passes(self, images: int) -> int:
        """Counts forward passes of each teacher that labels the student's views, for the time estimate only.

        Args:
            images: Number of images in the set.

        Returns:
            Number of passes of one image. 0: none, or unknown.
        """
        return 0

    def stored_label_bytes(self, images: int, classes: int) -> int:
        """Counts the bytes of the labels that the protocol stores in the cache, for the estimate of the disk only.

        Args:
            images: Number of images in the set.
            classes: Number of classes.
        """
        return 0

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student from scratch with one seed and measures it.

        Args:
            task: The distilled set, the real data, the teacher, a new student and its checkpoint.

        Returns:
            The metrics of the student on all images of `task.dataset.val`.
        """
        raise NotImplementedError
