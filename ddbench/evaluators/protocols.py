"""The built-in protocols and their parameters. Imports no torch: the numerics stand in sibling modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench.api.evaluator import Evaluator, Metrics
from ddbench.api.settings import DSA_STRATEGY, Strategy, TrainingSettings
from ddbench.evaluators.base import DistilledSetProtocol

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask


class KnowledgeDistillation(DistilledSetProtocol, frozen=True, extra="forbid"):
    """FKD: the student matches the teacher's logits on every view that it sees, mixed or not.

    KL(teacher || student) of softmax(logits / temperature), no T^2 factor; teacher logits rounded to fp16,
    stored or not, so that both roads give the same numbers.
    """

    name = "fkd"
    version = "1"
    paper = "Shen and Xing, A Fast Knowledge Distillation Framework (ECCV 2022), as SRe2L and WMDD evaluate"

    temperature: float = Field(default=20.0, gt=0, description="of both softmaxes (SRe2L: 20)")
    labels: Literal["online", "stored"] = Field(
        default="online",
        description="teacher logits computed as they are needed, or replayed from one stored file",
    )

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on the teacher's labels of every view and measures it."""
        from ddbench.evaluators.labels import OnlineLabels, StoredLabels
        from ddbench.evaluators.students import evaluate_student

        source = OnlineLabels if self.labels == "online" else StoredLabels
        return evaluate_student(task, self, source(task, self, self.temperature))


class SoftLabels(DistilledSetProtocol, frozen=True, extra="forbid"):
    """One fixed soft label an image: the teacher's logits (fp16) of the stored image without augmentation.

    KL at the same temperature as fkd; a CutMix image has the two images' soft labels, mixed by area.
    """

    name = "soft"
    version = "1"

    temperature: float = Field(default=20.0, gt=0, description="of both softmaxes (as in fkd)")

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on one soft label an image and measures it."""
        from ddbench.evaluators.labels import FixedSoftLabels
        from ddbench.evaluators.students import evaluate_student

        return evaluate_student(task, self, FixedSoftLabels(task, self, self.temperature))


class HardLabels(DistilledSetProtocol, frozen=True, extra="forbid"):
    """Cross-entropy on class labels, no teacher; a CutMix image has both classes, mixed by area."""

    name = "hard"
    version = "1"
    needs_teacher = False

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on class labels and measures it."""
        from ddbench.evaluators.labels import ClassLabels
        from ddbench.evaluators.students import evaluate_student

        return evaluate_student(task, self, ClassLabels(task, self))


class SiameseAugmentation(Evaluator, frozen=True, extra="forbid"):
    """DSA's protocol: SGD on class labels and views of differentiable siamese augmentation, no teacher.

    Every epoch is a fresh permutation; one operation is drawn a batch, its parameters for each image. Each
    sample's loss is multiplied by its image's weight, weights having mean 1 over the set. The learning rate is a
    tenth in the second half of the epochs, the last epoch is the result. The released code trains 1001 epochs,
    502 of them at the full rate, and forgets the momentum at the change.
    """

    name = "dsa"
    version = "1"
    paper = "Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation (ICML 2021), as DC and DM"
    needs_teacher = False

    epochs: int = Field(
        default=1000, ge=1, description="epochs over the distilled set (DSA, DM: 1000; DC, without augmentation: 300)"
    )
    batch_size: int = Field(default=256, ge=1, description="images a step; a smaller last batch is kept (DC: 256)")
    learning_rate: float = Field(
        default=0.01, gt=0, description="of SGD, a tenth of it in the second half of the epochs (DC: 0.01)"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD (DC: 0.9)")
    weight_decay: float = Field(default=5e-4, ge=0, description="of SGD, on all parameters (DC: 0.0005)")
    strategy: Strategy = Field(
        default=DSA_STRATEGY,
        description="operations of siamese augmentation, joined by underscores (DSA: all six); null = none",
    )

    def image_passes(self, images: int) -> int:
        """Images through the student: every image once an epoch."""
        return images * self.epochs

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on augmented views and class labels, and measures it."""
        from ddbench.evaluators.students import evaluate_with_siamese_augmentation

        training = TrainingSettings(
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            epochs=self.epochs,
        )
        return evaluate_with_siamese_augmentation(task, training, self.strategy)


class FullData(Evaluator, frozen=True, extra="forbid"):
    """The reference: a student trained on the whole real training set by the teacher's recipe."""

    name = "full-data"
    version = "1"
    needs_teacher = False
    on_real_data = True

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on the real training set and measures it."""
        from ddbench.evaluators.students import evaluate_on_real_images

        return evaluate_on_real_images(task)
