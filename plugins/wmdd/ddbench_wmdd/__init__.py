"""WMDD: dataset distillation by matching Wasserstein barycenters of features (Liu et al., ICCV 2025).

The entry point of the plugin: hook implementations and the methods' hyper-parameters. Imports no torch.
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
    units_across_classes,
    units_of_whole_classes,
)

if TYPE_CHECKING:
    from ddbench.api import DatasetInfo, DistillTask
    from ddbench.ot import Barycenter

PAPER = "Liu et al., Dataset Distillation via the Wasserstein Metric, ICCV 2025 (arXiv 2311.18531)"


class _VersionOfUnits:
    """The version of a method: "1", or "2" for units across classes.

    With `regulariser=bn`, version 1 optimised whole classes together.
    """

    def __get__(self, method: BarycenterMatching | None, owner: type) -> str:
        return "2" if method is not None and method.across_classes else "1"


class BarycenterMatching(RecoverSettings, Distiller, frozen=True, extra="forbid"):
    """The base class of WMDD and sliced WMDD: everything except the barycenter (Eq. 12 to 15; ablation of Table 4)."""

    version = _VersionOfUnits()
    starts = ("noise", "real")

    feature_loss: Literal["wasserstein", "cross-entropy", "mmd"] = Field(
        default="wasserstein",
        description="wasserstein: features match the barycenter (Eq. 12); cross-entropy: the teacher's cross-entropy "
        "instead (Table 4); mmd: Gaussian MMD to all features of the class instead (section 5.5)",
    )
    regulariser: Literal["pcbn", "bn", "none"] = Field(
        default="pcbn",
        description="pcbn: match BatchNorm statistics per class (Eq. 13, 14); bn: match the teacher's running "
        "statistics over the batch, which holds one image of each class, first layer x10 (Table 4; released script "
        "without PCBN); none: no term",
    )
    feature_form: Literal["squared", "norm"] = Field(
        default="squared",
        description="form of feature_loss=wasserstein; squared: Eq. 12; norm: one Frobenius norm over the batch "
        "(released)",
    )
    layer: int | None = Field(
        default=None,
        ge=1,
        # Added after version 1. The default is excluded, so that existing keys and records do not change.
        exclude_if=lambda layer: layer is None,
        description="number of the teacher's layer whose inputs are matched, averaged over height and width (Table 6); "
        "in ResNet-18, 1 is the stem, 2 to 17 are the blocks' convolutions and 18 is the classifier; "
        "null = the classifier",
    )
    cross_entropy_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the teacher's cross-entropy in addition to another feature_loss (paper: none; "
        "released: 1)",
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
    initial: str = Field(
        default="noise",
        description="initial images; noise: standard normal (paper, released); real: the real images nearest to the "
        "barycenter's points, or random ones if feature_loss has no barycenter (ddbench); a file, a folder or "
        "set:DIGEST: those of a distilled set, by class and number (ddbench)",
    )

    @property
    def regularised(self) -> bool:
        """Whether BatchNorm statistics are matched."""
        return self.bn_weight > 0 and self.regulariser != "none"

    def barycenter(self, task: DistillTask, label: int) -> Barycenter:
        """Returns the barycenter of one class's features from the cache, or computes it.

        Args:
            task: The task.
            label: The class.

        Returns:
            Points [IPC, d] and weights [IPC].
        """
        raise NotImplementedError

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses an IPC above the number of images of the smallest class if real images or a barycenter are needed."""
        needs_images = self.feature_loss == "wasserstein" or self.initial == "real"
        return too_few_images(dataset, ipc) if needs_images else None

    def skip_teacher(self, batch_norms: int) -> str | None:
        """Refuses a teacher without BatchNorm if its statistics are matched."""
        return no_batch_norm(self.name, batch_norms, "bn_weight") if self.regularised else None

    def layers(self) -> tuple[int, ...]:
        """Returns `layer` if it is set."""
        return () if self.layer is None else (self.layer,)

    @property
    def across_classes(self) -> bool:
        """Whether a unit holds one image of each class. The MMD always needs all images of a class in one batch."""
        return self.regulariser == "bn" and self.feature_loss != "mmd"

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        """Returns units of whole classes for PCBN, and units across classes for `regulariser=bn` (released code)."""
        divide = units_across_classes if self.across_classes else units_of_whole_classes
        return divide(num_classes, ipc, self.batch_size)

    def image_passes(self, num_classes: int, ipc: int) -> int:
        """Counts every image once per step."""
        return num_classes * ipc * self.steps

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        """Returns images that match the targets of the unit's classes, and their weights."""
        from ddbench_wmdd.matching import distill

        return distill(self, task, unit)

    @model_validator(mode="after")
    def _cross_entropy_alone_has_weight_1(self) -> Self:
        if self.feature_loss == "cross-entropy" and self.cross_entropy_weight not in (0, 1):
            raise ValueError("feature_loss=cross-entropy has weight 1: set bn_weight, not cross_entropy_weight")
        return self

    @model_validator(mode="after")
    def _cross_entropy_matches_no_layer(self) -> Self:
        if self.feature_loss == "cross-entropy" and self.layer is not None:
            raise ValueError("feature_loss=cross-entropy matches no features: do not set layer")
        return self


class WMDD(BarycenterMatching, frozen=True, extra="forbid"):
    """Optimises images to match the Wasserstein barycenter of the features of each class (Algorithm 1)."""

    name = "wmdd"
    paper = PAPER
    summary = (
        "Computes the Wasserstein barycenter of the teacher's features of each class, and optimises images from noise: "
        "their features match the points of the barycenter, and their BatchNorm statistics match those of the class. "
        "The weights of the barycenter are the weights of the images."
    )
    departures = (
        "The formulas of the paper and of the released code differ; the recipe `paper` has those of the paper, "
        "`released` those of the code. The images are stored without JPEG compression (except with `released`), and "
        "the crops of the teacher come from the stored images instead of the original files."
    )
    cost = "distill: classes * ipc * steps"

    solver: Literal["paper", "released", "lloyd"] = Field(
        default="paper",
        description="solver of the barycenter; paper: Algorithm 2; released: one POT free-support call with uniform "
        "weights; lloyd: k-means, which solves the same problem with free weights",
    )
    iterations: int = Field(default=10, ge=1, description="iterations K of Algorithm 2 (section 5.1: 10)")
    weight_step: float = Field(
        default=1.0,
        ge=0,
        lt=2,
        description="step size eta of the projected subgradient step on the weights (Algorithm 2, line 6) in units of "
        "Polyak's step; 0 keeps uniform weights (the paper gives no value)",
    )
    start: Literal["kmeans++", "real", "normal"] = Field(
        default="kmeans++",
        description="initial points of Algorithm 2: k-means++ or random real features, or standard normal noise "
        "(the paper gives no choice)",
    )

    def numerics(self) -> tuple[str, ...]:
        """Returns the name of the k-means solver's version, `LLOYD`, for the `solver` lloyd."""
        return ("LLOYD",) if self.solver == "lloyd" else ()

    def barycenter(self, task: DistillTask, label: int) -> Barycenter:
        """Returns the barycenter by `solver`. Its cache key does not contain `bn_weight` (lambda)."""
        from ddbench_wmdd.matching import wasserstein_barycenter

        return wasserstein_barycenter(self, task, label)


class SlicedWMDD(BarycenterMatching, frozen=True, extra="forbid"):
    """WMDD with the barycenter under the sliced Wasserstein distance, uniform weights (section 5.6, Table 5)."""

    name = "wmdd-sliced"
    paper = PAPER
    summary = (
        "WMDD with another barycenter: that of the sliced Wasserstein distance, which is the mean over projections on "
        "random directions and needs no transport plans."
    )
    departures = (
        "The paper reports accuracies and times of this variant without details, and the released code does not "
        "contain it. The solver and the numbers of directions and rounds are choices of ddbench; everything else is as "
        "in WMDD."
    )
    cost = "distill: classes * ipc * steps"

    projections: int = Field(
        default=512,
        ge=1,
        description="random directions per iteration (the paper gives no value; ResNet-18 has 512 features)",
    )
    iterations: int = Field(default=100, ge=1, description="iterations of the solver (the paper gives no value)")

    def barycenter(self, task: DistillTask, label: int) -> Barycenter:
        """Returns the sliced barycenter. Its cache key does not contain `bn_weight` (lambda)."""
        from ddbench_wmdd.matching import sliced_barycenter

        return sliced_barycenter(self, task, label)


@hookimpl
def ddbench_distillers() -> Iterable[type[Distiller]]:
    """Returns WMDD and sliced WMDD."""
    return [WMDD, SlicedWMDD]


@hookimpl
def ddbench_recipes() -> Iterable[Path]:
    """Returns the recipes of WMDD."""
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
