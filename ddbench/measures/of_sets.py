"""Measures of a distilled set: coverage of the real images, Fréchet distance, linear probe. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ddbench.api.measure import Measure, Need, Refusal

if TYPE_CHECKING:
    from ddbench.api.dataset import DatasetInfo
    from ddbench.api.measure import MeasureTask


class SetMeasure(Measure, frozen=True, extra="forbid"):
    """A measure of a distilled set, but not of the whole training set, which need not fit into memory."""

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses the whole training set."""
        return f"measure {self.name}: a distilled set is needed, not the whole training set" if ipc is None else None


class Coverage(SetMeasure, frozen=True, extra="forbid"):
    """How well a set covers the real images of its class, in the teacher's features, mean over classes.

    `nearest`: the mean distance of a distilled image to the nearest real one. `coverage`: the share of real images
    whose ball, with the distance to their k-th real neighbour as radius, contains a distilled image. `recall`: the
    share of real images inside a ball of a distilled image, with the distance to its k-th distilled neighbour as
    radius. `recall` needs more than k distilled images of every class and is left out otherwise.
    """

    name = "coverage"
    version = "1"
    paper = "Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models (ICML 2020)"
    needs: ClassVar[tuple[Need, ...]] = ("set", "teacher")

    neighbours: int = Field(default=5, ge=1, description="k (Naeem et al.: 5; Kynkäänniemi et al.: 3)")

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Refuses classes with too few real images, and the whole training set."""
        fewest = min(dataset.train_counts)
        if fewest > self.neighbours:
            return super().skip(dataset, ipc)
        return f"coverage.neighbours {self.neighbours}: the smallest class has only {fewest} training images"

    def compute(self, task: MeasureTask) -> dict[str, float]:
        """Returns `nearest`, `coverage` and, with enough images, `recall`. Shares are in [0, 1]."""
        from ddbench.measures.neighbours import coverage_of_classes

        return coverage_of_classes(task, self.neighbours)


class FrechetDistance(SetMeasure, frozen=True, extra="forbid"):
    """Fréchet distance between Gaussians that are fitted to the teacher's features of the set and of the real images.

    The features are the teacher's, not those of an Inception network, so values of different teachers and published
    FIDs are not comparable. Refused unless set and real images are more than the features: the covariance of n images
    has a rank below n, so that of fewer images is singular, and the distance then depends on n.
    """

    name = "fid"
    version = "1"
    paper = "Heusel et al., GANs Trained by a Two Time-Scale Update Rule (NeurIPS 2017)"
    needs: ClassVar[tuple[Need, ...]] = ("set", "teacher")

    def compute(self, task: MeasureTask) -> dict[str, float]:
        """Returns `fid`.

        Raises:
            Refusal: There are too few images.
        """
        import torch

        from ddbench.measures.frechet import frechet_distance
        from ddbench.measures.predictions import set_features

        real = torch.cat([task.statistics(label).features for label in range(task.dataset.info.num_classes)])
        for owner, count in (("set", len(task.distilled)), ("training set", len(real))):
            if count <= real.shape[1]:
                needed = f"{real.shape[1]} features need more than {real.shape[1]} images"
                raise Refusal(f"{needed}, and the {owner} has {count}")
        return {"fid": frechet_distance(set_features(task), real)}


class LinearProbe(SetMeasure, frozen=True, extra="forbid"):
    """Top-1 of a logistic regression that is trained on the distilled images' features of a frozen backbone.

    The features are standardised by their mean and deviation over the set. The loss is the cross-entropy with class
    labels and the set's weights, with an L2 penalty (scikit-learn's `C`).
    """

    name = "linear-probe"
    version = "1"
    paper = "Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes (2016)"
    needs: ClassVar[tuple[Need, ...]] = ("set",)

    backbone: str = Field(default="resnet18", description="network of timm")
    weights: Path = Field(
        description="weights of the backbone: .safetensors, or a file of torch.save, read weights-only"
    )
    image_size: int | None = Field(
        default=None, ge=4, le=1024, description="side that images are resized to; null: the image size of the run"
    )
    C: float = Field(default=1.0, gt=0, description="inverse strength of the L2 penalty")

    def skip(self, dataset: DatasetInfo, ipc: int | None) -> str | None:
        """Builds the backbone once, so that a wrong name or file ends the run before anything is trained."""
        from ddbench.measures.probe import load_backbone

        load_backbone(self.backbone, self.weights, self.image_size or dataset.image_size)
        return super().skip(dataset, ipc)

    def compute(self, task: MeasureTask) -> dict[str, float]:
        """Returns `top1` on the evaluation images."""
        from ddbench.measures.probe import probe_accuracy

        size = self.image_size or task.dataset.info.image_size
        return {"top1": probe_accuracy(task, self.backbone, self.weights, size, self.C)}
