"""The protocols `own`, `mtt` and `datm-dsa`: training on exactly what a distilled set holds. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ddbench.api.evaluator import Metrics
from ddbench.evaluators.protocols import SiameseAugmentation

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask


class OwnLabels(SiameseAugmentation, frozen=True, extra="forbid"):
    """What MTT and DATM have in common: `dsa` with the soft labels and the learning rate that the set holds.

    The loss is the cross-entropy with the set's soft labels; logits become probabilities by a softmax without
    temperature. The KL divergence has the same gradient, because the two differ by the entropy of the labels, which
    is constant. A set without soft labels is trained on its classes, one without a learning rate at `learning_rate`.
    Float images are used as they are. The augmentation of the set is `strategy`.
    """

    name = "own"
    version = "1"
    paper = (
        "Cazenavette et al., Dataset Distillation by Matching Training Trajectories (CVPR 2022), and DATM (ICLR 2024)"
    )
    uses: ClassVar[tuple[str, ...]] = ("pixels", "soft_labels", "learning_rate")

    learning_rate: float = Field(
        default=0.01,
        gt=0,
        description="learning rate of SGD if the set holds none; divided by 10 after half of the epochs (MTT: 0.01)",
    )

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on the set's images, labels and learning rate and measures it."""
        from ddbench.evaluators.students import evaluate_with_siamese_augmentation

        training = self.training(task.distilled.learning_rate or self.learning_rate)
        soft_labels = task.distilled.soft_labels if "soft_labels" in self.uses else None
        return evaluate_with_siamese_augmentation(task, self, training, self.operations, soft_labels)


class TrajectoryLabels(OwnLabels, frozen=True, extra="forbid"):
    """The protocol of MTT: `own` with the classes, also if the set holds soft labels."""

    name = "mtt"
    version = "1"
    paper = "Cazenavette et al., Dataset Distillation by Matching Training Trajectories (CVPR 2022)"
    uses: ClassVar[tuple[str, ...]] = ("pixels", "learning_rate")


class DifficultyAlignedLabels(OwnLabels, frozen=True, extra="forbid"):
    """The protocol of DATM: `own` with batches of 128."""

    name = "datm-dsa"
    version = "1"
    paper = "Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching (ICLR 2024)"

    batch_size: int = Field(default=128, ge=1, description="images per step; a smaller last batch is kept (DATM: 128)")
