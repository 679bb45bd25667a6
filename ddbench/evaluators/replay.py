"""The protocol `replay`: training on stored labels of every view. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from ddbench.api.evaluator import Metrics
from ddbench.core.errors import DDBenchError
from ddbench.evaluators.base import SoftTargetProtocol

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask

FROM_FILES = ("batch_size", "min_crop", "cutmix_alpha", "augmentation", "select_share", "teachers")
"""Settings of `fkd` that the files of the labels determine."""
NEEDED = "evaluator 'replay' needs the labels of the set: --set evaluator.labels=FOLDER"


class Replay(SoftTargetProtocol, frozen=True, extra="forbid"):
    """`fkd` without a teacher: views and logits are those of a folder of labels for every view.

    The folder is that of `ddbench export --labels`, or of the released code of SRe2L and WMDD. Batches, order, crops,
    flips and CutMix are those of the files. Labels of `rded` and `cv-dd` are trained on with their schedule of the
    learning rate; version 1 had that of `fkd`.
    """

    name = "replay"
    version = "2"
    paper = "Shen and Xing, A Fast Knowledge Distillation Framework (ECCV 2022), with stored labels"
    needs_teacher = False
    for_one_set = True

    labels: Path | None = Field(default=None, description="folder of the labels (required)")
    order_seed: int = Field(
        default=42, description="seed of the order of the images in labels of SRe2L and WMDD (--fkd-seed: 42)"
    )

    @model_validator(mode="after")
    def _leave_views_to_the_files(self) -> Replay:
        fields = type(self).model_fields
        for name in FROM_FILES:
            if getattr(self, name) != fields[name].default:
                raise ValueError(f"{name} is that of the labels: leave it out")
        return self

    def skip(self, ipc: int | None) -> str | None:
        """Refuses a run without labels."""
        return NEEDED if self.labels is None else None

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on the views and logits of the files and measures it."""
        from ddbench.evaluators.fkd_labels import ReplayedLabels
        from ddbench.evaluators.label_folders import open_labels
        from ddbench.evaluators.students import evaluate_student
        from ddbench.training.schedules import cosine, half_cosine

        if self.labels is None:
            raise DDBenchError(NEEDED)
        labels = open_labels(self.labels, task.dataset.info.image_size, self.order_seed)
        schedule = half_cosine if labels.schedule == "half-cosine" else cosine
        return evaluate_student(task, self, ReplayedLabels(task, self, self.temperature, labels), schedule)
