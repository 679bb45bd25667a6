"""The protocol of RDED. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ddbench.api.evaluator import Metrics
from ddbench.evaluators.protocols import KnowledgeDistillation

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask


class PatchShuffling(KnowledgeDistillation, frozen=True, extra="forbid"):
    """The protocol of RDED: fkd with shuffled patches, larger crops, and a learning rate that decays to half.

    Every view permutes the rows and the columns of the image's grid of factor x factor patches. The crop keeps at least
    the area of 1 / factor of the image. The learning rate is multiplied by 0.5 (1 + cos(pi t / (2 epochs))) in epoch t.
    """

    name = "rded"
    version = "1"
    paper = "Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024 (arXiv 2312.03526)"

    factor: int = Field(
        default=2,
        ge=1,
        description="patches along a side of an image, which every view shuffles; that of the method rded (released "
        "scripts: 2 for the ImageNet sets, 1 for CIFAR and Tiny ImageNet)",
    )
    min_crop: float = Field(
        default=0.5, gt=0, le=1, description="smallest fraction of the area that a crop keeps; by default 1 / factor"
    )

    @model_validator(mode="before")
    @classmethod
    def _crop_by_factor(cls, settings: Any) -> Any:
        factor = settings.get("factor") if isinstance(settings, dict) else None
        if not isinstance(factor, int) or factor < 1:
            return settings
        return {"min_crop": 1 / factor, **settings}

    @property
    def shuffle_factor(self) -> int:
        """The patches along a side of an image that every view shuffles."""
        return self.factor

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on the teacher's logits of every view and measures it."""
        from ddbench.evaluators.students import evaluate_student
        from ddbench.training.schedules import half_cosine

        return evaluate_student(task, self, self.label_source(task), half_cosine)
