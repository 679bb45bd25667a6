"""CV-DD (Cui et al. 2025): SRe2L from real images, with a committee of teachers that vote by weight. No torch."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from ddbench.api import CommitteeSettings, too_few_images
from ddbench_sre2l.sre2l import SRe2L

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import DatasetInfo, DistillTask, Unit


class CVDD(CommitteeSettings, SRe2L, frozen=True, extra="forbid"):
    """SRe2L from real images, whose loss is the weighted sum of the losses of several teachers."""

    name = "cv-dd"
    version = "1"
    paper = "Cui et al., Dataset Distillation via Committee Voting, 2025 (arXiv 2501.07575)"
    summary = (
        "Starts from real images and optimises them as SRe2L does, for the sum of the losses of two teachers, weighted "
        "by their prior accuracy. Each image of a class has another pair of teachers. Students learn from the weighted "
        "mean logits of all teachers, with the BatchNorm statistics of each batch (protocol `cv-dd`). With the recipe "
        "`sre2l-plus-plus` it is SRe2L++, the corrected SRe2L of the paper: one teacher, the rest as above."
    )
    departures = (
        "The authors start from their released patches of medium difficulty; here they are real images of medium "
        "confidence, selected as in DELT. The pairs of teachers take turns at every IPC; above IPC 10 the released "
        "code draws them. The recipes have the authors' prior accuracies, also at other sizes."
    )
    cost = "distill: classes * ipc * steps * committee; the confidences take images / 3"
    default_evaluator = "cv-dd"
    starts = ("medium", "noise")

    committee: int = Field(
        default=2,
        ge=1,
        description="teachers of an image; image j of each class has the j-th combination of the teachers, in their "
        "order (released scripts: 2)",
    )
    prior_temperature: float = Field(
        default=5.0, gt=0, description="temperature of the softmax of the priors, in percentage points (released: 5)"
    )
    initial: str = Field(
        default="medium",
        description="initial images; medium: real images of medium confidence (released code: patches of medium "
        "difficulty); noise; or a distilled set: a file, a folder or set:DIGEST",
    )

    @model_validator(mode="after")
    def _require_a_teacher_for_each_member(self) -> Self:
        count = len(self.teachers) or 1
        if self.committee > count:
            raise ValueError(f"committee {self.committee} is larger than the number of teachers, {count}")
        return self

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the number of images of the smallest class if the initial images are real."""
        return too_few_images(dataset, ipc) if self.initial == "medium" else None

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts every image once per step and teacher of its committee."""
        return super().image_passes(num_classes, ipc) * self.committee

    def members(self, index: int) -> tuple[int, ...]:
        """Returns the numbers of the teachers of image `index` of each class.

        Source: the released code (`recover/recover.py`, `model_choice_sequence`).

        Example:
            >>> [CVDD(teachers=("a", "b", "c")).members(index) for index in range(4)]
            [(0, 1), (0, 2), (1, 2), (0, 1)]
        """
        every = list(combinations(range(len(self.teachers) or 1), self.committee))
        return every[index % len(every)]

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Returns images that are optimised from real images by the committee of their index."""
        from ddbench_sre2l.medium import medium_images
        from ddbench_sre2l.voting import distill

        initial = task.noise(unit) if self.initial == "noise" else medium_images(task, unit)
        return distill(self, task, unit, initial)
