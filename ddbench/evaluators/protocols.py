"""The built-in protocols and their parameters. Imports no torch; the computations are in sibling modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ddbench.api.evaluator import Evaluator, Metrics
from ddbench.api.settings import DSA_STRATEGY, Strategy, TrainingSettings
from ddbench.config.networks import convnet_for
from ddbench.config.schema import is_none
from ddbench.evaluators.base import Augmentation, DistilledSetProtocol, SoftTargetProtocol
from ddbench.evaluators.length import EpochsOrSteps

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask
    from ddbench.evaluators.fkd_labels import OnlineLabels


VIEW_BYTES = 17
"""Bytes of a stored view without its label."""


class KnowledgeDistillation(SoftTargetProtocol, frozen=True, extra="forbid"):
    """FKD: the student matches the teacher's logits of every view, after CutMix.

    The loss is KL(teacher || student) of softmax(logits / temperature), by default without the factor T^2. The
    teacher's logits are rounded to fp16, so that online and stored labels give the same numbers.
    """

    name = "fkd"
    version = "1"
    paper = "Shen and Xing, A Fast Knowledge Distillation Framework (ECCV 2022), as SRe2L and WMDD evaluate"

    labels: Literal["online", "stored"] = Field(
        default="online",
        description="online: the teacher's logits are computed at every step; stored: they are read from one file",
    )
    label_views: int | None = Field(
        default=None,
        ge=1,
        exclude_if=is_none,
        description="epochs of views with their labels, which all epochs reuse in turn; null = every epoch has its own "
        "(FKD, SRe2L); for none, use the protocol hard",
    )
    label_top: int | None = Field(
        default=None,
        ge=1,
        exclude_if=is_none,
        description="largest probabilities of a label that are stored; the other classes share the rest of the mass "
        "evenly (FKD: 5, marginal smoothing with top-k); null = all (SRe2L)",
    )
    label_bits: Literal[16, 8, 4] = Field(
        default=16,
        exclude_if=lambda bits: bits == 16,
        description="bits of a stored logit: 16 (fp16; SRe2L), or 8 or 4 (linear, fp16 scale and offset per label)",
    )
    label_statistics: Literal["running", "batch"] = Field(
        default="running",
        exclude_if=lambda statistics: statistics == "running",
        description="statistics of the teachers' BatchNorm layers for a label: running (FKD, SRe2L), or those of the "
        "batch that is labelled (CV-DD, SRe2L++)",
    )

    def teacher_weights(self) -> tuple[float, ...]:
        """Returns the weights of the teachers' logits in their mean, of sum 1. Empty: equal weights."""
        return ()

    def label_passes(self, images: int) -> int:
        """Counts every view that is labelled."""
        views = super().label_passes(images)
        return views if self.label_views is None else min(views, images * self.label_views)

    def stored_label_bytes(self, images: int, classes: int) -> int:
        """Counts the logits of all views in fp16, and their crops, flips and partners."""
        return self.label_passes(images) * (2 * classes + VIEW_BYTES) if self.labels == "stored" else 0

    def label_source(self, task: EvaluateTask) -> OnlineLabels:
        """Returns the views and labels of a task."""
        from ddbench.evaluators.fkd_labels import OnlineLabels, StoredLabels
        from ddbench.evaluators.label_budgets import LabelBudget

        source = OnlineLabels if self.labels == "online" else StoredLabels
        budget = LabelBudget(self.label_views, self.label_top, self.label_bits)
        weights, of_batch = self.teacher_weights(), self.label_statistics == "batch"
        return source(task, self, self.temperature, budget, weights, of_batch)

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on the teacher's logits of every view and measures it."""
        from ddbench.evaluators.students import evaluate_student

        return evaluate_student(task, self, self.label_source(task))


class SoftLabels(SoftTargetProtocol, frozen=True, extra="forbid"):
    """One fixed soft label per image: the teacher's logits (fp16) of the stored image without augmentation.

    The loss is the KL divergence as in fkd. The label of a CutMix image is the mean of two soft labels by area.
    """

    name = "soft"
    version = "1"

    def label_passes(self, images: int) -> int:
        """Counts every image once."""
        return images

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on one soft label per image and measures it."""
        from ddbench.evaluators.labels import FixedSoftLabels
        from ddbench.evaluators.students import evaluate_student

        return evaluate_student(task, self, FixedSoftLabels(task, self, self.temperature))


class HardLabels(DistilledSetProtocol, frozen=True, extra="forbid"):
    """Cross-entropy on class labels, without a teacher. A CutMix image has both classes, mixed by area."""

    name = "hard"
    version = "1"
    needs_teacher = False

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on class labels and measures it."""
        from ddbench.evaluators.labels import ClassLabels
        from ddbench.evaluators.students import evaluate_student

        return evaluate_student(task, self, ClassLabels(task, self))


class SiameseAugmentation(EpochsOrSteps, frozen=True, extra="forbid"):
    """The protocol of DSA: SGD on class labels and siamese augmentation, without a teacher.

    Every epoch visits the images in a new random order. One operation is drawn per batch, and its parameters for each
    image. The loss of a sample is multiplied by its image's weight; weights are scaled to mean 1 over the set. In the
    second half of the epochs the learning rate is divided by 10. The result is the top-1 after the last epoch. Float
    images are used as they are, as in the released code of DM. The released code trains for 1001 epochs, 502 of them at
    the full rate, and resets the momentum when the rate changes.
    """

    name = "dsa"
    version = "1"
    paper = "Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation (ICML 2021), as DC and DM"
    needs_teacher = False
    batch_settings = ("batch_size",)
    uses: ClassVar[tuple[str, ...]] = ("pixels",)

    epochs: int | None = Field(
        default=1000,
        ge=1,
        description="epochs over the distilled set (DSA, DM: 1000; DC, without augmentation: 300); null with steps",
    )
    batch_size: int = Field(default=256, ge=1, description="images per step; a smaller last batch is kept (DC: 256)")
    learning_rate: float = Field(
        default=0.01, gt=0, description="learning rate of SGD; divided by 10 after half of the epochs (DC: 0.01)"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD (DC: 0.9)")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of SGD, on all parameters (DC: 0.0005)")
    strategy: Strategy = Field(
        default=DSA_STRATEGY,
        description="operations of siamese augmentation, joined by underscores (DSA: all six; DC: none); null = none",
    )
    augmentation: Augmentation = "default"

    @property
    def operations(self) -> str | None:
        """The operations of siamese augmentation; None: no augmentation."""
        return None if self.augmentation == "none" else self.strategy

    @classmethod
    def default_student(cls, image_size: int) -> str:
        """Returns the ConvNet of the authors, with a depth that suits the image size."""
        return convnet_for(image_size)

    def training(self, learning_rate: float) -> TrainingSettings:
        """Returns the hyper-parameters of SGD."""
        return TrainingSettings(
            learning_rate=learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on augmented images and class labels and measures it."""
        from ddbench.evaluators.students import evaluate_with_siamese_augmentation

        return evaluate_with_siamese_augmentation(task, self, self.training(self.learning_rate), self.operations)


class FullData(Evaluator, frozen=True, extra="forbid"):
    """The reference: a student trained on the real training set with the teacher's hyper-parameters and CutMix.

    An image of CutMix has both classes, mixed by area, as in `hard`. Version 1 had no CutMix.
    """

    name = "full-data"
    version = "2"
    needs_teacher = False
    on_real_data = True

    cutmix_alpha: float | None = Field(
        default=1.0,
        gt=0,
        description="alpha of CutMix's Beta(alpha, alpha) distribution, as in hard (FKD: 1); null = no CutMix",
    )

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on the real training set and measures it."""
        from ddbench.evaluators.students import evaluate_on_real_images

        return evaluate_on_real_images(task, self.cutmix_alpha)
