"""The protocol of CV-DD. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from ddbench.api.evaluator import Metrics
from ddbench.evaluators.protocols import KnowledgeDistillation

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask


class CommitteeLabels(KnowledgeDistillation, frozen=True, extra="forbid"):
    """The protocol of CV-DD and SRe2L++: fkd in small batches, labelled with the BatchNorm statistics of the batch.

    The label of a view is the mean of the logits of several teachers. Their weights are
    softmax(`priors` / `prior_temperature`).
    """

    name = "cv-dd"
    version = "1"
    paper = "Cui et al., Dataset Distillation via Committee Voting (arXiv 2501.07575)"

    teachers: tuple[str, ...] = Field(
        default=("resnet18", "resnet50", "shufflenet_v2_x1_0", "mobilenet_v2", "densenet121"),
        description="networks of the teachers whose logits are averaged (CV-DD: these five; SRe2L++: empty); empty = "
        "the teacher alone",
    )
    priors: tuple[float, ...] = Field(
        default=(),
        description="prior accuracy of each teacher in percent: that of students of a set that it distils alone "
        "(CV-DD, ImageNette: 62.4, 52, 57.2, 54, 60.8); empty = equal weights",
    )
    prior_temperature: float = Field(
        default=10.0, gt=0, description="temperature of the softmax of the priors, in percentage points (CV-DD: 10)"
    )
    label_statistics: Literal["running", "batch"] = Field(
        default="batch",
        description="statistics of the teachers' BatchNorm layers for a label: those of the batch that is labelled "
        "(CV-DD, SRe2L++), or the running ones",
    )
    batch_size: int = Field(
        default=16,
        ge=1,
        description="images per step, at most the whole set; a smaller last batch is kept (CV-DD: 16)",
    )
    schedule: Literal["cosine", "half-cosine"] = Field(
        default="half-cosine",
        description="learning rate: a cosine to 0, or its first half (CV-DD, ImageNette: cosine at IPC 10, else half)",
    )

    @model_validator(mode="after")
    def _require_a_prior_for_each_teacher(self) -> Self:
        if self.priors and len(self.priors) != len(self.teachers):
            raise ValueError(
                f"priors has {len(self.priors)} numbers for {len(self.teachers)} teachers: "
                "give one for each, or [] for equal weights"
            )
        return self

    def teacher_weights(self) -> tuple[float, ...]:
        """Returns the weights of the teachers, of sum 1. Empty: equal weights."""
        import torch

        return tuple((torch.tensor(self.priors, dtype=torch.float64) / self.prior_temperature).softmax(0).tolist())

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on the committee's logits of every view and measures it."""
        from ddbench.evaluators.students import evaluate_student
        from ddbench.training.schedules import cosine, half_cosine

        schedule = cosine if self.schedule == "cosine" else half_cosine
        return evaluate_student(task, self, self.label_source(task), schedule)
