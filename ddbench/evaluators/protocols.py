"""The built-in protocols and their parameters. Imports no torch: the numerics stand in sibling modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench.evaluator import Evaluator, Metrics
from ddbench.siamese_settings import DSA_STRATEGY, Strategy

if TYPE_CHECKING:
    from ddbench.task import EvaluateTask


class DistilledSetProtocol(Evaluator, frozen=True, extra="forbid"):
    """A student trained from scratch on a distilled set: same views and optimiser steps, whatever the labels.

    Every epoch is a fresh permutation; every image gets a random-resized-crop, a flip and CutMix (one box a
    batch). Each sample's loss is multiplied by the weight of the image that was pasted onto, weights having
    mean 1 over the set. AdamW without weight decay on biases and norm scales, cosine by epoch to 0. The last
    epoch is the result; with `select_share` the epoch that is best on held-out distilled images is measured too.
    """

    epochs: int = Field(default=300, ge=1, description="epochs over the distilled set (SRe2L/FKD: 300)")
    batch_size: int = Field(
        default=100,
        ge=1,
        description="images a step, at most the whole set; a smaller last batch is kept (FKD: 100)",
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="of AdamW, on a cosine to 0 (FKD: 0.001)")
    weight_decay: float = Field(
        default=0.01, ge=0, description="of AdamW, on parameters of two or more dimensions (FKD: 0.01)"
    )
    min_crop: float = Field(
        default=0.08,
        gt=0,
        le=1,
        description="smallest part of the area that a crop keeps (torchvision: 0.08)",
    )
    cutmix_alpha: float | None = Field(
        default=1.0, gt=0, description="Beta(alpha, alpha) of CutMix's share (FKD: 1); null = no CutMix"
    )
    validate_every: int = Field(
        default=0,
        ge=0,
        description="also validate every so many epochs, to record top1_best; 0 = last epoch only",
    )

    select_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        # It came after version 1: unset, it is in no key and no record, which are then what they were.
        exclude_if=lambda share: share is None,
        description="share of each class's distilled images that are held out from training to choose the epoch of "
        "top1_selected (WMDD, Table 2: 0.2); null = none, the last epoch only",
    )

    def skip(self, ipc: int | None) -> str | None:
        """Refuses to hold out the only image of a class."""
        if self.select_share is None or ipc != 1:
            return None
        return "--ipc 1: evaluator.select_share holds out at least one image of a class, and one must be trained on"

    def work(self, images: int) -> int:
        """Images through the student: every image once an epoch."""
        return images * self.epochs


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

        source = OnlineLabels(task, self) if self.labels == "online" else StoredLabels(task, self)
        return evaluate_student(task, self, source)


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

        return evaluate_student(task, self, FixedSoftLabels(task, self))


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

    def work(self, images: int) -> int:
        """Images through the student: every image once an epoch."""
        return images * self.epochs

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on augmented views and class labels, and measures it."""
        from ddbench.evaluators.students import evaluate_with_siamese_augmentation

        return evaluate_with_siamese_augmentation(task, self)


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
