"""Experts: networks trained on the real data, with a snapshot per epoch. Module level: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from ddbench.api import DSA_STRATEGY, Cost, Passes, Stage, StageRun, Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import CheckpointIO


class ExpertSettings(BaseModel, frozen=True):
    """The hyper-parameters of the experts. A method that uses the stage `experts` inherits from this class."""

    network: str = Field(default="convnet-d3", description="network of experts and students (released code: ConvNet-3)")
    strategy: Strategy = Field(
        default=DSA_STRATEGY,
        description="siamese augmentation of experts and students, joined by underscores; null = none (released code: "
        "all six)",
    )
    experts: int = Field(default=100, ge=1, description="trainings on the real data (released code: 100)")
    expert_epochs: int = Field(
        default=50, ge=1, description="epochs of each of them (released code: 50, train_epochs); a snapshot per epoch"
    )
    expert_learning_rate: float = Field(
        default=0.01, gt=0, description="rate of SGD on the real data, constant, no weight decay (released code: 0.01)"
    )
    expert_momentum: float = Field(default=0.0, ge=0, lt=1, description="momentum of that SGD (released code: 0)")
    expert_batch: int = Field(default=256, ge=1, description="real images per step of that SGD (released code: 256)")

    @property
    def surrogate_gap(self) -> tuple[float, float] | None:
        """rho and alpha of GSAM, which takes two gradients per step. None: each step takes the gradient of the loss."""
        return None

    @property
    def training(self) -> dict[str, Any]:
        """The settings that a training depends on."""
        return {name: getattr(self, name) for name in ExpertSettings.model_fields if name != "experts"}


class FlatExpertSettings(ExpertSettings, frozen=True):
    """The hyper-parameters of experts with flat trajectories (FTD)."""

    expert_rho: float = Field(
        default=0.01,
        ge=0,
        description="size of the perturbation of adaptive GSAM, whose gradients train the experts; 0: plain gradients, "
        "and the experts of mtt (released code: 0.01)",
    )
    expert_alpha: float = Field(
        default=0.3, ge=0, description="weight of the part of the gradient that GSAM subtracts (released code: 0.3)"
    )

    @property
    def surrogate_gap(self) -> tuple[float, float] | None:
        """rho and alpha of GSAM; None without a perturbation."""
        return (self.expert_rho, self.expert_alpha) if self.expert_rho else None

    @property
    def training(self) -> dict[str, Any]:
        """The settings that a training depends on. Without a perturbation they are those of other experts."""
        flat = {"expert_rho": self.expert_rho, "expert_alpha": self.expert_alpha, "precision": "fp32"}
        return super().training | (flat if self.surrogate_gap else {})


class Experts(Stage):
    """Trains the experts: each part is one training, with the parameters after every epoch.

    The key contains neither IPC nor seed, nor the number of experts: more experts add parts. The tensors of a part are
    `snapshot(0)`, the initial parameters, to `snapshot(expert_epochs)`, float32 [P] each.
    """

    name = "experts"
    version = "1"
    progress_unit = "epoch"

    def count(self, run: StageRun) -> int:
        """Returns the number of experts."""
        return settings_of(run).experts

    def depends_on(self, run: StageRun) -> Mapping[str, Any]:
        """Returns the settings of a training."""
        return settings_of(run).training

    def image_passes(self, run: StageRun, part: int) -> float:
        """Counts every training image once per epoch, or twice for the two gradients of GSAM."""
        settings = settings_of(run)
        gradients = 2 if settings.surrogate_gap else 1
        return gradients * settings.expert_epochs * sum(run.info.train_counts)

    def cost(self, run: StageRun, part: int) -> Cost:
        """Returns the passes of a training. Those of GSAM are in float32."""
        precision = "fp32" if settings_of(run).surrogate_gap else None
        return Cost((Passes(self.image_passes(run, part), precision=precision),))

    def build(self, run: StageRun, part: int, checkpoint: CheckpointIO) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Trains one expert. The metadata hold the accuracy of its last epoch on `dataset.val`."""
        from ddbench_mtt.training import train_expert

        return train_expert(settings_of(run), run, part, checkpoint)


def settings_of(run: StageRun) -> ExpertSettings:
    """Returns the settings of the experts of the run's method."""
    assert isinstance(run.method, ExpertSettings)
    return run.method


def snapshot(epoch: int) -> str:
    """Returns the name of the parameters after an epoch in the artifact of an expert; 0 are the initial ones.

    >>> snapshot(3)
    'epoch-003'
    """
    return f"epoch-{epoch:03}"
