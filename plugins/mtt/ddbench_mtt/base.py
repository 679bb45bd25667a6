"""The settings and declarations that methods of trajectory matching share. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from pydantic import Field, model_validator

from ddbench.api import Distiller, too_few_images
from ddbench_mtt.experts import Experts, ExpertSettings

if TYPE_CHECKING:
    from ddbench.api import DatasetInfo

PASSES = 4
"""Passes of an image in a student's step: one forwards; backwards one more, which is differentiated a second time."""


class Update(NamedTuple):
    """How SGD updates a learned tensor.

    Attributes:
        setting: The name of the setting that is its learning rate.
        momentum: Its momentum.
    """

    setting: str
    momentum: float


class TrajectoryMatching(ExpertSettings, Distiller, frozen=True, extra="forbid"):
    """The hyper-parameters of MTT and of the methods that build on it. The defaults are those of MTT."""

    needs_teacher = False
    batch_settings = ("batch_size",)

    iterations: int = Field(
        default=5000, ge=1, description="matched parts of trajectories, one after another (released code: 5000)"
    )
    student_steps: int = Field(
        default=20, ge=1, description="N, steps of SGD on the synthetic images (released code: 20, syn_steps)"
    )
    target_epochs: int = Field(
        default=3, ge=1, description="M, epochs of the expert that they match (released code: 3, expert_epochs)"
    )
    max_start_epoch: int = Field(
        default=25, ge=1, description="the student starts after fewer epochs of the expert (released code: 25)"
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="synthetic images per step; null: all (released code: all, batch_syn)"
    )
    initial: str = "real"
    learning_rate: float = Field(
        default=1000, gt=0, description="rate of SGD on the pixels (released code: 1000, lr_img)"
    )
    initial_rate: float = Field(
        default=0.01, gt=0, description="initial learning rate of the student (released code: 0.01, lr_teacher)"
    )
    rate_learning_rate: float = Field(
        default=1e-5, ge=0, description="rate of SGD on that learning rate (released code: 1e-5, lr_lr)"
    )
    momentum: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="momentum of SGD on the pixels and on the learning rate (released code: 0.5)",
    )

    @model_validator(mode="after")
    def _require_targets(self) -> Self:
        last = self.max_start_epoch - 1 + self.target_epochs
        if last > self.expert_epochs:
            raise ValueError(
                f"max_start_epoch {self.max_start_epoch} and target_epochs {self.target_epochs} need the snapshot "
                f"after epoch {last} of experts of {self.expert_epochs} epochs: raise expert_epochs, or lower one"
            )
        return self

    def start_epochs(self, iteration: int) -> range:
        """Returns the epochs of an expert after which the student of an iteration (from 0) may start."""
        return range(self.max_start_epoch)

    def updates(self) -> dict[str, Update]:
        """Returns how SGD updates each learned tensor, by name."""
        return {
            "images": Update("learning_rate", self.momentum),
            "rate": Update("rate_learning_rate", self.momentum),
        }

    def accepts(self, loss: float) -> bool:
        """Returns whether an iteration with this loss changes the learned tensors."""
        return True

    def stages(self) -> tuple[str, ...]:
        """Returns the stage of the experts."""
        return (Experts.name,)

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the number of images of the smallest class if the initial images are real."""
        return too_few_images(dataset, ipc) if self.initial != "noise" else None

    def networks(self) -> tuple[str, ...]:
        """Returns the network of experts and students."""
        return (self.network,)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts the images of the students' steps. The experts are a stage of their own."""
        images = num_classes * ipc
        return PASSES * self.iterations * self.student_steps * min(images, self.batch_size or images)
