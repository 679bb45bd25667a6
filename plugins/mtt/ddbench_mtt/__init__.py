"""MTT: dataset distillation by matching training trajectories (Cazenavette et al., CVPR 2022).

The entry point of the plugin: hook implementations and the method's hyper-parameters. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from ddbench.api import Distiller, Stage, Unit, UnitResult, hookimpl, too_few_images
from ddbench_mtt.experts import Experts, ExpertSettings

if TYPE_CHECKING:
    from ddbench.api import DatasetInfo, DistillTask

PASSES = 4
"""Passes of an image in a student's step: one forwards; backwards one more, which is differentiated a second time."""


class MTT(ExpertSettings, Distiller, frozen=True, extra="forbid"):
    """Optimises images and a learning rate so that a student trained on them follows networks trained on real data."""

    name = "mtt"
    version = "1"
    paper = (
        "Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022 (arXiv 2203.11932); "
        "constant memory as in Cui et al., TESLA, ICML 2023 (arXiv 2211.10586)"
    )
    summary = (
        "Trains experts on the real data and stores their parameters after every epoch. A student starts from the "
        "parameters of an expert and takes some steps on the synthetic images. The images and the learning rate of the "
        "student are optimised so that its parameters come near those that the expert has some epochs later."
    )
    departures = (
        "ZCA whitening and the option for textures are left out. The gradient equals that of the unrolled steps but is "
        "computed with the memory of one step, an idea of TESLA. The result is that of the last iteration; the "
        "released code reports the best of several evaluations on the test images."
    )
    cost = (
        "experts: experts * expert_epochs * images; distill: 4 * iterations * student_steps * min(batch_size, classes "
        "* ipc)"
    )
    needs_teacher = False
    default_evaluator = "mtt"
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
    initial: Literal["real", "noise"] = Field(
        default="real", description="initial images: real images, or standard normal noise (released code: real)"
    )
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

    def stages(self) -> tuple[str, ...]:
        """Returns the stage of the experts."""
        return (Experts.name,)

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the number of images of the smallest class if the initial images are real."""
        return too_few_images(dataset, ipc) if self.initial == "real" else None

    def networks(self) -> tuple[str, ...]:
        """Returns the network of experts and students."""
        return (self.network,)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts the images of the students' steps. The experts are a stage of their own."""
        images = num_classes * ipc
        return PASSES * self.iterations * self.student_steps * min(images, self.batch_size or images)

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """Returns float images and a learning rate with which students follow the experts."""
        from ddbench_mtt.matching import distill

        return distill(self, task, unit)


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    """Returns MTT."""
    return [MTT]


@hookimpl
def ddbench_stages() -> Iterable[type[Stage]]:
    """Returns the stage of the experts."""
    return [Experts]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    """Returns the recipes of MTT."""
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
