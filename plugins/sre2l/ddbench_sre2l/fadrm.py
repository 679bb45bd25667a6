"""FADRM+ (Cui et al., NeurIPS 2025): teachers in turn, and real images mixed in between the phases. No torch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from ddbench.api import Phase, too_few_images
from ddbench_sre2l.sre2l import SRe2L

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import DatasetInfo, DistillTask, Unit


class FADRMPlus(SRe2L, frozen=True, extra="forbid"):
    """SRe2L from real images with several teachers, in phases of two sizes, between which real images are mixed in."""

    name = "fadrm-plus"
    version = "1"
    paper = "Cui et al., Fast and Accurate Data Residual Matching, NeurIPS 2025 (arXiv 2506.24125)"
    summary = (
        "Starts from real images and optimises them as SRe2L does, with several teachers in turn. Between the phases "
        "the images are resized and mixed with the real images that they started from, so that they keep their details."
    )
    departures = (
        "The authors start from their released patches of medium difficulty; here they are real images of medium "
        "confidence, selected as in DELT. Students have the labels of the protocol; theirs are the ensemble's."
    )
    cost = "distill: classes * ipc * steps; the confidences take images / 3"
    starts = ("medium", "noise")

    steps: int = Field(default=2000, ge=1, description="steps of all phases together (released scripts: 4 x 500)")
    teachers: tuple[str, ...] = Field(
        default=("resnet18", "densenet121", "shufflenet_v2_x1_0", "mobilenet_v2"),
        min_length=1,
        description="teachers in turn, one per step (released scripts: these four; one teacher: FADRM)",
    )
    scales: tuple[float, ...] = Field(
        default=(0.893, 1.0, 0.893, 1.0),
        min_length=1,
        description="side of the images in each phase, in sides of the distilled images (released scripts: 200 and "
        "224 px; 64 and 32 px throughout); networks with flattened maps, such as ConvNets, need 1",
    )
    initial: str = Field(
        default="medium",
        # The default is excluded: keys and records from before this default have no other value for the same images.
        exclude_if=lambda initial: initial == "medium",
        description="initial images; medium: the real images of medium confidence that are mixed in (paper); noise; or "
        "a distilled set: a file, a folder or set:DIGEST",
    )
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="share of the optimised images in a mixture (released scripts: 0.5)"
    )

    @model_validator(mode="after")
    def _require_phases(self) -> Self:
        if self.steps % len(self.scales) or self.scales[-1] != 1 or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(
                f"scales {self.scales} must be above 0 and at most 1 and end with 1, and steps {self.steps} must be a "
                f"multiple of their number {len(self.scales)}"
            )
        return self

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the number of images of the smallest class."""
        return too_few_images(dataset, ipc)

    def teacher_pool(self) -> tuple[str, ...]:
        """Returns the teachers."""
        return self.teachers

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Returns images that are optimised from real images, which are mixed in between the phases."""
        from ddbench_sre2l.inversion import distill, mix, resize
        from ddbench_sre2l.medium import medium_images

        real = medium_images(task, unit)
        first, *others = [max(1, round(scale * task.info.image_size)) for scale in self.scales]
        steps, initial = self.steps // len(self.scales), task.noise(unit) if self.initial == "noise" else real
        phases = [
            Phase(steps, start=partial(resize, size=first)),
            *(Phase(steps, start=partial(mix, real, self.alpha, size)) for size in others),
        ]
        teachers = task.teachers(*self.teachers)
        return distill(self, task, unit, teachers, initial=initial, phases=phases)
