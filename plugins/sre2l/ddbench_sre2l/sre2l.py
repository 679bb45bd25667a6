"""SRe2L (Yin et al., NeurIPS 2023) and CDA (Yin and Shen, TMLR 2024): methods that invert the teacher. No torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from ddbench.api import Distiller, RecoverSettings, Unit, no_batch_norm, units_across_classes

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api import DistillTask


class SRe2L(RecoverSettings, Distiller, frozen=True, extra="forbid"):
    """Optimises images for the teacher's cross-entropy and for its running BatchNorm statistics."""

    name = "sre2l"
    version = "1"
    paper = "Yin et al., Squeeze, Recover and Relabel, NeurIPS 2023 (arXiv 2306.13092)"
    summary = (
        "Trains a teacher (squeeze), optimises images from noise for the teacher's cross-entropy and for its running "
        "BatchNorm statistics (recover), and trains students with soft labels of every view (relabel, protocol `fkd`)."
    )
    departures = (
        "All methods share the teacher of the recipe, and the images are stored without JPEG compression. The authors "
        "have no settings for ImageNette: `paper` uses those for ImageNet-1K with 2,000 steps."
    )
    cost = "distill: classes * ipc * steps"

    steps: int = Field(default=4000, ge=1, description="optimisation steps per unit (released scripts: 4000)")
    bn_weight: float = Field(
        default=0.01,
        ge=0,
        description="weight of the BatchNorm alignment (released scripts: ImageNet-1K 0.01; Tiny ImageNet 1, CDA 0.05)",
    )
    first_bn_scale: float = Field(
        default=10.0, ge=0, description="factor on the alignment of the first BatchNorm layer (released code: 10)"
    )

    def skip_teacher(self, batch_norms: int) -> str | None:
        """Refuses a teacher without BatchNorm if its statistics are matched."""
        return no_batch_norm(self.name, batch_norms, "bn_weight") if self.bn_weight else None

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """Returns units with one image each of up to `batch_size` classes (released code)."""
        return units_across_classes(num_classes, ipc, self.batch_size)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts every image once per step."""
        return num_classes * ipc * self.steps

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        """Returns images that are optimised from noise by cross-entropy and BatchNorm alignment."""
        from ddbench_sre2l.inversion import distill

        return distill(self, task, unit)


class CDA(SRe2L, frozen=True, extra="forbid"):
    """SRe2L with a curriculum: the smallest crop shrinks from the whole image to `crop_scale_min`."""

    name = "cda"
    paper = (
        "Yin and Shen, Dataset Distillation via Curriculum Data Synthesis in Large Data Era, TMLR 2024 "
        "(arXiv 2311.18838)"
    )
    summary = (
        "SRe2L with a curriculum: the random crops of the optimised images are large at first and become smaller, so "
        "that images get their global structure before their details."
    )

    def crop_scale(self, step: int) -> tuple[float, float]:
        """Returns the range of a crop's area. The minimum decreases on a cosine schedule from 1 to `crop_scale_min`.

        Source: the released code's curriculum "cosine" with milestone 1.

        Args:
            step: The step, from 0.

        Example:
            >>> method = CDA(steps=100, crop_scale_min=0.5)
            >>> method.crop_scale(0), method.crop_scale(50)
            ((1.0, 1.0), (0.75, 1.0))
        """
        remaining = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.crop_scale_min + (1 - self.crop_scale_min) * remaining, 1.0
