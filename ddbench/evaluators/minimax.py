"""The protocol of Minimax Diffusion. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench.api.evaluator import Metrics
from ddbench.evaluators.protocols import HardLabels

if TYPE_CHECKING:
    from ddbench.api.context import EvaluateTask


class MinimaxHardLabels(HardLabels, frozen=True, extra="forbid"):
    """The protocol of Minimax Diffusion, from IDC: hard labels, SGD, CutMix, and jittered colours.

    After crop and flip, every view gets a colour jitter and lighting noise. The learning rate is multiplied by 0.2
    after two thirds and after five sixths of the epochs.
    """

    name = "minimax-hard"
    version = "1"
    paper = "Gu et al., Efficient Dataset Distillation via Minimax Diffusion, CVPR 2024 (arXiv 2311.15529)"

    epochs: int | None = Field(
        default=2000,
        ge=1,
        description="epochs (Minimax: 3000 at IPC 1, 2000 to IPC 10, 1500 to 50, 1000 to 200); null with steps",
    )
    batch_size: int = Field(
        default=64,
        ge=1,
        description="images per step, at most the whole set; a smaller last batch is kept (Minimax: 64)",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        default="sgd", description="sgd (Minimax), with momentum 0.9 and weight decay on all parameters; or adamw"
    )
    learning_rate: float = Field(
        default=0.01,
        gt=0,
        description="initial learning rate; times 0.2 after 2/3 and 5/6 of the epochs (Minimax: 0.01)",
    )
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay (Minimax: 0.0005)")
    min_crop: float = Field(
        default=0.5, gt=0, le=1, description="smallest fraction of the area that a crop keeps (Minimax: 0.5)"
    )
    jitter: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="largest change of brightness, contrast and saturation, each as a fraction (Minimax: 0.4)",
    )
    lighting: float = Field(
        default=0.1, ge=0, description="deviation of the noise along ImageNet's principal colours (Minimax: 0.1)"
    )

    @property
    def colour_noise(self) -> tuple[float, float] | None:
        """The strengths of colour jitter and lighting noise."""
        return (self.jitter, self.lighting) if self.jitter or self.lighting else None

    @classmethod
    def default_student(cls, image_size: int) -> str:
        """Returns ResNetAP-10, the network of the released script."""
        return "resnetap-10"

    def evaluate(self, task: EvaluateTask) -> Metrics:
        """Trains one student on class labels and measures it."""
        from ddbench.evaluators.labels import ClassLabels
        from ddbench.evaluators.students import evaluate_student
        from ddbench.training.schedules import fifths_at_two_thirds

        return evaluate_student(task, self, ClassLabels(task, self), fifths_at_two_thirds)
