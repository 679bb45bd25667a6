"""The protocols of EDC and of G-VBSM. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench.api.evaluator import Metrics
from ddbench.evaluators.base import TeacherLabelProtocol

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask
    from ddbench.api.settings import TrainingSettings


class AveragedStudent(TeacherLabelProtocol, frozen=True, extra="forbid"):
    """The protocol of EDC: the student matches logits and class, and the average of its weights is measured.

    The loss is MSE-GT: the mean squared error to the teacher's logits of every view, rounded to fp16, plus `ce_weight`
    times the cross-entropy with the class of the image that CutMix pastes onto. The moving average of the weights over
    the steps is measured.
    """

    name = "edc"
    version = "1"
    paper = "Shao et al., Elucidating the Design Space of Dataset Condensation, NeurIPS 2024 (arXiv 2404.13733)"

    epochs: int | None = Field(
        default=1000, ge=1, description="epochs over the distilled set (EDC, ImageNet-10: 1000); null with steps"
    )
    batch_size: int = Field(
        default=50, ge=1, description="images per step; a smaller last batch is kept (EDC, ImageNet-10 at IPC 10: 50)"
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, description="initial learning rate (EDC, G-VBSM: AdamW 0.001, SGD 0.1)"
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        description="weight decay of parameters of two or more dimensions (EDC, G-VBSM: AdamW 0.01, SGD 5e-4; "
        "G-VBSM, CIFAR-10: 0)",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        default="adamw",
        exclude_if=lambda optimizer: optimizer == "adamw",
        description="adamw, or sgd with momentum 0.875 (EDC: Tiny ImageNet), in gvbsm 0.9 (G-VBSM: Tiny ImageNet, "
        "CIFAR-100)",
    )
    min_crop: float = Field(
        default=0.5, gt=0, le=1, description="smallest fraction of the area that a crop keeps (EDC: 0.5; G-VBSM: 0.08)"
    )
    factor: int = Field(
        default=1,
        ge=1,
        description="patches along a side of an image, which every view shuffles (EDC: 2 on ImageNet-1K, else 1)",
    )
    ce_weight: float = Field(
        default=0.025, ge=0, description="weight of the cross-entropy (EDC: 0.025; G-VBSM: 0.1, on CIFAR 0.15)"
    )
    schedule: Literal["smoothed", "half-cosine", "cosine"] = Field(
        default="smoothed",
        description="learning rate. smoothed: the first half of a cosine, and in the last sixth a line to 0 (EDC: "
        "ImageNet-10, CIFAR-100); half-cosine (EDC: ImageNet-1K, Tiny ImageNet); cosine: to 0 (G-VBSM)",
    )
    ema_decay: float = Field(
        default=0.99, ge=0, lt=1, description="decay of the average of the weights (EDC: 0.99); 0 = none (G-VBSM)"
    )

    @property
    def shuffle_factor(self) -> int:
        """The patches along a side of an image that every view shuffles."""
        return self.factor

    @property
    def average_decay(self) -> float | None:
        """The decay of the average of the student's weights."""
        return self.ema_decay or None

    def training(self, batch_size: int) -> TrainingSettings:
        """Returns the optimiser and its hyper-parameters."""
        return super().training(batch_size).model_copy(update={"momentum": 0.875, "decay_vectors": False})

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on the teacher's logits of every view and the classes, and measures it."""
        from ddbench.evaluators.mse_labels import LogitsAndClasses
        from ddbench.evaluators.students import evaluate_student
        from ddbench.training import schedules

        schedule = {
            "smoothed": schedules.smoothed,
            "half-cosine": schedules.half_cosine,
            "cosine": schedules.cosine,
        }[self.schedule]
        return evaluate_student(task, self, LogitsAndClasses(task, self, self.ce_weight), schedule)


class EnsembleStudent(AveragedStudent, frozen=True, extra="forbid"):
    """The protocol of G-VBSM: as edc, with the mean of the logits of several teachers.

    The learning rate follows a cosine by epoch to 0, crops are those of fkd, and the student itself is measured.
    """

    name = "gvbsm"
    version = "1"
    paper = (
        "Shao et al., Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching, "
        "CVPR 2024 (arXiv 2311.17950)"
    )

    teachers: tuple[str, ...] = Field(
        default=("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"),
        description="networks of the teachers whose logits are averaged (G-VBSM: ImageNet-1K); empty = one teacher",
    )
    epochs: int | None = Field(
        default=300,
        ge=1,
        description="epochs over the distilled set (G-VBSM: ImageNet-1K 300, Tiny ImageNet 100, CIFAR 1000); null with "
        "steps",
    )
    batch_size: int = Field(
        default=100,
        ge=1,
        description="images per step; a smaller last batch is kept (G-VBSM: ImageNet-1K 1024; CIFAR-10 100)",
    )
    min_crop: float = Field(
        default=0.08, gt=0, le=1, description="smallest fraction of the area that a crop keeps (G-VBSM: 0.08)"
    )
    ce_weight: float = Field(default=0.1, ge=0, description="weight of the cross-entropy (G-VBSM: 0.1; on CIFAR 0.15)")
    schedule: Literal["smoothed", "half-cosine", "cosine"] = Field(
        default="cosine", description="learning rate; see edc (G-VBSM: cosine to 0)"
    )
    ema_decay: float = Field(
        default=0.0, ge=0, lt=1, description="decay of the average of the weights; 0 = none (G-VBSM)"
    )

    def training(self, batch_size: int) -> TrainingSettings:
        """Returns the optimiser and its hyper-parameters."""
        return super().training(batch_size).model_copy(update={"momentum": 0.9})
