"""WMDD: dataset distillation by matching Wasserstein barycenters of features (Liu et al., ICCV 2025).

The plugin's entry point: hook implementations and the method's hyper-parameters. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ddbench import hookimpl
from ddbench.distiller import Distiller, Unit, UnitResult, too_few_images, units_of_whole_classes
from ddbench.recover_settings import RecoverSettings

if TYPE_CHECKING:
    from ddbench.data.spec import DatasetInfo
    from ddbench.task import DistillTask


class WMDD(RecoverSettings, Distiller, frozen=True, extra="forbid"):
    """Images whose features sit on the Wasserstein barycenter of their class (Algorithm 1)."""

    name = "wmdd"
    version = "1"
    paper = "Liu et al., Dataset Distillation via the Wasserstein Metric, ICCV 2025 (arXiv 2311.18531)"

    solver: Literal["paper", "released", "lloyd"] = Field(
        default="paper",
        description="barycenter: paper = Algorithm 2; released = one POT free-support call, uniform weights; "
        "lloyd = k-means with free weights, the same problem's closed-form steps",
    )
    iterations: int = Field(default=10, ge=1, description="rounds K of Algorithm 2 (section 5.1: 10)")
    weight_step: float = Field(
        default=1.0,
        ge=0,
        lt=2,
        description="step eta of the projected subgradient on the weights, Algorithm 2 line 6, in units of Polyak's "
        "step: 0 keeps them uniform (the paper gives none)",
    )
    start: Literal["kmeans++", "real", "normal"] = Field(
        default="kmeans++",
        description="start of Algorithm 2's points: kmeans++ or random real features, or standard normal "
        "(the paper gives none)",
    )
    feature_form: Literal["squared", "norm"] = Field(
        default="squared", description="squared: Eq. 12; norm: one Frobenius norm over the batch (released)"
    )
    cross_entropy_weight: float = Field(
        default=0.0, ge=0, description="weight of the teacher's cross-entropy (paper: none; released: 1)"
    )
    bn_weight: float = Field(
        default=10.0,
        ge=0,
        description="lambda of Eq. 15 (Table 7: ImageNette 10, Tiny ImageNet 300, ImageNet-1K 500)",
    )
    bn_form: Literal["squared", "norm"] = Field(
        default="squared",
        description="squared: Eq. 13; norm: unsquared norms, averaged over classes (released)",
    )

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses more barycenter points than the class has images."""
        return too_few_images(dataset, ipc)

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """Whole classes, as many as a batch holds: PCBN needs all images of a class together."""
        return units_of_whole_classes(num_classes, ipc, self.batch_size)

    def work(self, num_classes: int, ipc: int) -> int:
        """Every image is put through the teacher once a step."""
        return num_classes * ipc * self.steps

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """Barycenters of the unit's classes, then pixels that match them."""
        from ddbench_wmdd.matching import distill

        return distill(self, task, unit)


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    return [WMDD]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
