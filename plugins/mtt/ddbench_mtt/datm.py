"""DATM (Guo et al., ICLR 2024): trajectory matching with learned labels and parts of fitting difficulty. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from ddbench_mtt.base import TrajectoryMatching, Update
from ddbench_mtt.experts import FlatExpertSettings

if TYPE_CHECKING:
    from ddbench.api import DistillTask, Unit, UnitResult


class DATM(FlatExpertSettings, TrajectoryMatching, frozen=True, extra="forbid"):
    """MTT with learned soft labels, flat experts, and starts that fit the size of the set and become later.

    Version 1 trained the experts in the precision of the run.
    """

    name = "datm"
    version = "2"
    paper = (
        "Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, ICLR 2024 "
        "(arXiv 2310.05773); experts as in Du et al., FTD, CVPR 2023 (arXiv 2211.11004)"
    )
    summary = (
        "Matches trajectories as MTT does. The starts are epochs of a window that fits the number of images: early "
        "ones for small sets, late ones for large sets; the window widens during the first iterations. Images start "
        "from real images that an expert classifies correctly. Their soft labels start from its logits and are learned "
        "too. Experts have flat trajectories (FTD), and iterations with a high loss are skipped."
    )
    departures = (
        "ZCA whitening is left out. Of FTD, the training of the experts is done; its average of the images is not, nor "
        "does the released code of DATM have it. The gradient is computed with the memory of one step. The result is "
        "that of the last iteration; the released code reports the best of several evaluations on the test images."
    )
    cost = (
        "experts: 2 * experts * expert_epochs * images; distill: 4 * iterations * student_steps * min(batch_size, "
        "classes * ipc); the initial images take images / 3 at most for each expert that selects them"
    )
    default_evaluator = "datm-dsa"

    expert_epochs: int = Field(
        default=100, ge=1, description="epochs of each expert (released code: 100); a snapshot per epoch"
    )
    iterations: int = Field(
        default=10_000, ge=1, description="matched parts of trajectories, one after another (released code: 10,000)"
    )
    student_steps: int = Field(
        default=80, ge=1, description="N, steps of SGD on the synthetic images (released code, CIFAR-10: 80)"
    )
    target_epochs: int = Field(
        default=2, ge=1, description="M, epochs of the expert that they match (released code: 2)"
    )
    min_start_epoch: int = Field(
        default=0, ge=0, description="T-, the student starts after this epoch of the expert or a later one"
    )
    initial_max_start_epoch: int = Field(
        default=10,
        ge=1,
        description="T, in the first iteration the student starts after fewer epochs (released code, CIFAR-10 at IPC "
        "10: 10, current_max_start_epoch)",
    )
    max_start_epoch: int = Field(
        default=20,
        ge=1,
        description="T+, the same after the window has widened (released code, CIFAR-10 at IPC 10: 20)",
    )
    widening_iterations: int = Field(
        default=1000,
        ge=1,
        description="iterations in which the window widens, linearly (released code, CIFAR-10 at IPC 10: 1000, "
        "expansion_end_epoch)",
    )
    initial: Literal["correct", "real"] = Field(
        default="correct",
        description="initial images; correct: random ones of those that the first expert classifies correctly, and the "
        "next experts if they are too few; real: random ones (released code: correct)",
    )
    label_experts: int = Field(
        default=1,
        ge=1,
        description="the initial label is the mean of the logits of that many experts, the first that classify the "
        "image correctly, or of all that do (paper: 1; released code: all)",
    )
    learning_rate: float = Field(
        default=100, gt=0, description="rate of SGD on the pixels (released code, CIFAR-10 at IPC 10: 100, lr_img)"
    )
    label_learning_rate: float = Field(
        default=2, ge=0, description="rate of SGD on the labels, as logits (released code, CIFAR-10 at IPC 10: 2, lr_y)"
    )
    label_momentum: float = Field(
        default=0.9, ge=0, lt=1, description="momentum of SGD on the labels (released code: 0.9, Momentum_y)"
    )
    max_loss: float = Field(
        default=1,
        gt=0,
        description="iterations with a higher loss change nothing (released code: 1, threshold; CIFAR-10 at IPC 1: "
        "1.1)",
    )

    @model_validator(mode="after")
    def _require_window(self) -> Self:
        if not self.min_start_epoch < self.initial_max_start_epoch <= self.max_start_epoch:
            raise ValueError(
                f"min_start_epoch {self.min_start_epoch}, initial_max_start_epoch {self.initial_max_start_epoch} and "
                f"max_start_epoch {self.max_start_epoch} are no window that widens: the first must be below the "
                "second, and that at most the third"
            )
        return self

    def start_epochs(self, iteration: int) -> range:
        """Returns the window of an iteration (from 0): its end moves from the initial maximum to the maximum.

        Source: the released code (`distill/DATM.py`, `Upper_Bound`).

        Example:
            >>> method = DATM(initial_max_start_epoch=2, max_start_epoch=4, widening_iterations=4)
            >>> [method.start_epochs(iteration).stop for iteration in (0, 1, 2, 3, 4, 9)]
            [2, 2, 3, 3, 4, 4]
        """
        widened = (self.max_start_epoch - self.initial_max_start_epoch) * iteration // self.widening_iterations
        return range(self.min_start_epoch, min(self.initial_max_start_epoch + widened, self.max_start_epoch))

    def updates(self) -> dict[str, Update]:
        """Returns how SGD updates images, labels and learning rate."""
        return super().updates() | {"labels": Update("label_learning_rate", self.label_momentum)}

    def accepts(self, loss: float) -> bool:
        """Returns whether the loss is at most the bound. One that is not a number is not."""
        return loss <= self.max_loss

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """Returns float images, logits and a learning rate with which students follow the experts."""
        from ddbench_mtt.labels import SoftMatching
        from ddbench_mtt.matching import distill

        return distill(SoftMatching(self, task), unit)
