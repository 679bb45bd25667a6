"""The protocol of CV-DD. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench.api.evaluator import Metrics
from ddbench.api.settings import CommitteeSettings
from ddbench.evaluators.protocols import KnowledgeDistillation

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask


class CommitteeLabels(CommitteeSettings, KnowledgeDistillation, frozen=True, extra="forbid"):
    """The protocol of CV-DD and SRe2L++: fkd in small batches, labelled with the BatchNorm statistics of the batch.

    The label of a view is the mean of the logits of several teachers. Their weights are
    softmax(`priors` / `prior_temperature`).
    """

    name = "cv-dd"
    version = "1"
    paper = "Cui et al., Dataset Distillation via Committee Voting (arXiv 2501.07575)"

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

    def teacher_weights(self) -> tuple[float, ...]:
        """Returns the weights of the teachers, of sum 1. Empty: equal weights."""
        return self.vote_weights(*range(len(self.priors)))

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on the committee's logits of every view and measures it."""
        from ddbench.evaluators.students import evaluate_student
        from ddbench.training.schedules import cosine, half_cosine

        schedule = cosine if self.schedule == "cosine" else half_cosine
        return evaluate_student(task, self, self.label_source(task), schedule)
