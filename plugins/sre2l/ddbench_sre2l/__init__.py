"""SRe2L (Yin et al., NeurIPS 2023) and CDA (Yin and Shen, TMLR 2024): dataset distillation by inverting a teacher.

The plugin's entry point: hook implementations and the method's hyper-parameters. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ddbench.api import Distiller, RecoverSettings, Unit, hookimpl, no_batch_norm, units_across_classes

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import DistillTask


class SRe2L(RecoverSettings, Distiller, frozen=True, extra="forbid"):
    """Images that the teacher classifies rightly and whose BatchNorm statistics are the teacher's own."""

    name = "sre2l"
    version = "1"
    paper = "Yin et al., Squeeze, Recover and Relabel, NeurIPS 2023 (arXiv 2306.13092)"

    steps: int = Field(default=4000, ge=1, description="optimisation steps a unit (released scripts: 4000)")
    bn_weight: float = Field(
        default=0.01,
        ge=0,
        description="weight of the BatchNorm alignment (released scripts: ImageNet-1K 0.01; Tiny ImageNet 1, CDA 0.05)",
    )
    first_bn_scale: float = Field(
        default=10.0, ge=0, description="factor on the alignment of the first BatchNorm layer (released code: 10)"
    )

    def skip_teacher(self, batch_norms: int) -> str | None:
        """Refuses a teacher without BatchNorm where its statistics are matched."""
        return no_batch_norm(self.name, batch_norms) if self.bn_weight else None

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """One image each of as many classes as a batch holds (released code)."""
        return units_across_classes(num_classes, ipc, self.batch_size)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Every image is put through the teacher once a step."""
        return num_classes * ipc * self.steps

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Pixels from noise, by cross-entropy and BatchNorm alignment."""
        from ddbench_sre2l.inversion import distill

        return distill(self, task, unit)


class CDA(SRe2L, frozen=True, extra="forbid"):
    """SRe2L on crops from easy to hard: first the whole image, at last any part of it above `crop_scale_min`."""

    name = "cda"
    paper = (
        "Yin and Shen, Dataset Distillation via Curriculum Data Synthesis in Large Data Era, TMLR 2024 "
        "(arXiv 2311.18838)"
    )

    def crop_scale(self, step: int) -> tuple[float, float]:
        """Smallest area on a cosine from 1 to `crop_scale_min` over all steps (released code: cosine, milestone 1)."""
        easy = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.crop_scale_min + (1 - self.crop_scale_min) * easy, 1.0


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    return [SRe2L, CDA]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
