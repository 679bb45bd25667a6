"""WMDD: dataset distillation by matching Wasserstein barycenters of features (Liu et al., ICCV 2025).

The plugin's entry point: hook implementations and the methods' hyper-parameters. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from ddbench.api import (
    Distiller,
    RecoverSettings,
    Unit,
    UnitResult,
    hookimpl,
    no_batch_norm,
    too_few_images,
    units_of_whole_classes,
)

if TYPE_CHECKING:
    from ddbench.api import DatasetInfo, DistillTask
    from ddbench.ot import Barycenter

PAPER = "Liu et al., Dataset Distillation via the Wasserstein Metric, ICCV 2025 (arXiv 2311.18531)"


class BarycenterMatching(RecoverSettings, Distiller, frozen=True, extra="forbid"):
    """What WMDD and its sibling share: all but the barycenter (Eq. 12 to 15; the ablation of Table 4)."""

    feature_loss: Literal["wasserstein", "cross-entropy", "mmd"] = Field(
        default="wasserstein",
        description="wasserstein: features meet the barycenter (Eq. 12); cross-entropy: the teacher's, in its place "
        "(Table 4); mmd: Gaussian MMD to all features of the class, in its place (section 5.5)",
    )
    regulariser: Literal["pcbn", "bn", "none"] = Field(
        default="pcbn",
        description="pcbn: BatchNorm statistics of each class (Eq. 13, 14); bn: the teacher's running ones, of the "
        "whole batch, first layer x10 (Table 4; released script without PCBN); none: no term",
    )
    feature_form: Literal["squared", "norm"] = Field(
        default="squared",
        description="of feature_loss=wasserstein; squared: Eq. 12; norm: one Frobenius norm over the batch (released)",
    )
    layer: int | None = Field(
        default=None,
        ge=1,
        # It came after version 1: unset, it is in no key and no record, which are then what they were.
        exclude_if=lambda layer: layer is None,
        description="whose features are matched (Table 6): what feeds the teacher's layer of this number, averaged "
        "over height and width; in ResNet-18 1 is the stem, 2 to 17 the blocks' convolutions, 18 the classifier; "
        "null = the classifier",
    )
    cross_entropy_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the teacher's cross-entropy beside another feature_loss (paper: none; released: 1)",
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
    initial: Literal["noise", "real"] = Field(
        default="noise",
        description="start of the pixels; noise: standard normal (paper, released); real: the real images nearest to "
        "the barycenter's points, random ones where feature_loss has no barycenter (ddbench)",
    )

    @property
    def regularised(self) -> bool:
        """Whether BatchNorm statistics are matched."""
        return self.bn_weight > 0 and self.regulariser != "none"

    def barycenter(self, task: DistillTask, label: int) -> Barycenter:
        """The points [IPC, d] and weights [IPC] that one class's images shall meet, through `task.cached`."""
        raise NotImplementedError

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses more barycenter points, or real images to start from, than the class has images."""
        needs_images = self.feature_loss == "wasserstein" or self.initial == "real"
        return too_few_images(dataset, ipc) if needs_images else None

    def skip_teacher(self, batch_norms: int) -> str | None:
        """Refuses a teacher without BatchNorm where its statistics are matched."""
        return no_batch_norm(self.name, batch_norms) if self.regularised else None

    def layers(self) -> tuple[int, ...]:
        """The layer whose features are matched, where one is named."""
        return () if self.layer is None else (self.layer,)

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """Whole classes, as many as a batch holds: PCBN needs all images of a class together."""
        return units_of_whole_classes(num_classes, ipc, self.batch_size)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Every image is put through the teacher once a step."""
        return num_classes * ipc * self.steps

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """Targets of the unit's classes, then pixels that match them."""
        from ddbench_wmdd.matching import distill

        return distill(self, task, unit)

    @model_validator(mode="after")
    def _cross_entropy_alone_has_weight_1(self) -> Self:
        if self.feature_loss == "cross-entropy" and self.cross_entropy_weight not in (0, 1):
            raise ValueError("feature_loss=cross-entropy has weight 1: set bn_weight, and no cross_entropy_weight")
        return self

    @model_validator(mode="after")
    def _cross_entropy_matches_no_layer(self) -> Self:
        if self.feature_loss == "cross-entropy" and self.layer is not None:
            raise ValueError("feature_loss=cross-entropy matches no features: set no layer")
        return self


class WMDD(BarycenterMatching, frozen=True, extra="forbid"):
    """Images whose features sit on the Wasserstein barycenter of their class (Algorithm 1)."""

    name = "wmdd"
    version = "1"
    paper = PAPER

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

    def numerics(self) -> tuple[str, ...]:
        """Those of `solver`."""
        return ("LLOYD",) if self.solver == "lloyd" else ()

    def barycenter(self, task: DistillTask, label: int) -> Barycenter:
        """The barycenter by `solver`. Cached without lambda."""
        from ddbench_wmdd.matching import wasserstein_barycenter

        return wasserstein_barycenter(self, task, label)


class SlicedWMDD(BarycenterMatching, frozen=True, extra="forbid"):
    """WMDD with the barycenter under the sliced Wasserstein distance, uniform weights (section 5.6, Table 5)."""

    name = "wmdd-sliced"
    version = "1"
    paper = PAPER

    projections: int = Field(
        default=512, ge=1, description="random directions a round (the paper gives none; 512: ResNet-18's features)"
    )
    iterations: int = Field(default=100, ge=1, description="rounds of the sliced barycenter (the paper gives none)")

    def barycenter(self, task: DistillTask, label: int) -> Barycenter:
        """The sliced barycenter. Cached without lambda."""
        from ddbench_wmdd.matching import sliced_barycenter

        return sliced_barycenter(self, task, label)


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    return [WMDD, SlicedWMDD]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
