"""Measures of a trained student: calibration, common corruptions, adversarial examples. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from ddbench.api.measure import Measure, Need

if TYPE_CHECKING:
    from ddbench.api.dataset import DatasetInfo
    from ddbench.api.measure import MeasureTask

FORWARD = 1 / 3
"""A forward pass without the backward pass, as a share of both."""


class CalibrationError(Measure, frozen=True, extra="forbid"):
    """Expected calibration error: the gap between confidence and accuracy, in percentage points.

    The confidence is the largest softmax probability. Images are binned by confidence, in bins of equal width. The
    error is the mean of |accuracy - mean confidence| over the bins, weighted by the images in a bin.
    """

    name = "ece"
    version = "1"
    paper = "Guo et al., On Calibration of Modern Neural Networks (ICML 2017)"
    needs: ClassVar[tuple[Need, ...]] = ("student",)

    bins: int = Field(default=15, ge=1, description="bins of equal width (Guo et al.: 15)")

    def image_passes(self, dataset: DatasetInfo) -> float:
        """Counts one forward pass of every evaluation image."""
        return FORWARD * sum(dataset.val_counts)

    def compute(self, task: MeasureTask) -> dict[str, float]:
        """Returns `ece`, in percentage points."""
        from ddbench.measures.calibration import calibration_error
        from ddbench.measures.predictions import student_logits

        probabilities = student_logits(task).softmax(1)
        return {"ece": 100 * calibration_error(probabilities, task.dataset.val.labels, self.bins)}


class CommonCorruptions(Measure, frozen=True, extra="forbid"):
    """Top-1 on corrupted evaluation images: Gaussian noise, defocus blur, contrast, brightness, JPEG.

    Five of the corruptions of CIFAR-10-C (images up to 32 px), Tiny-ImageNet-C (up to 64 px) and ImageNet-C (larger
    images) with their severities, computed here without their libraries. All students see the same noise.
    """

    name = "corruptions"
    version = "1"
    paper = "Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions (ICLR 2019)"
    needs: ClassVar[tuple[Need, ...]] = ("student",)

    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = Field(
        default=(1, 2, 3, 4, 5), min_length=1, description="severities to average over, 1 to 5 (paper: all)"
    )

    def image_passes(self, dataset: DatasetInfo) -> float:
        """Counts one forward pass of every evaluation image for each corruption and severity."""
        return 5 * len(self.severities) * FORWARD * sum(dataset.val_counts)

    def compute(self, task: MeasureTask) -> dict[str, float]:
        """Returns the top-1 of each corruption, mean over the severities, and `top1`, their mean."""
        from ddbench.measures.corruption import corrupted_accuracies

        accuracies = corrupted_accuracies(task, self.severities)
        return {"top1": sum(accuracies.values()) / len(accuracies), **accuracies}


class ProjectedGradient(Measure, frozen=True, extra="forbid"):
    """Top-1 under projected gradient ascent of the cross-entropy on the pixels, in an L-infinity ball.

    The attack starts at a random point of the ball, follows the sign of the gradient, and keeps the pixels in [0, 1].
    An image counts if the student classifies it correctly before and after the attack. Computed in float32.
    """

    name = "pgd"
    version = "1"
    paper = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks (ICLR 2018)"
    needs: ClassVar[tuple[Need, ...]] = ("student",)

    epsilon: float = Field(default=2 / 255, ge=0, le=1, description="radius of the ball, for pixels in [0, 1] (2/255)")
    steps: int = Field(default=10, ge=1, description="steps of the attack")
    step_size: float = Field(
        default=0.5 / 255, gt=0, le=1, description="step, for pixels in [0, 1] (a quarter of 2/255)"
    )

    def image_passes(self, dataset: DatasetInfo) -> float:
        """Counts one pass of every evaluation image for each step."""
        return self.steps * sum(dataset.val_counts)

    def compute(self, task: MeasureTask) -> dict[str, float]:
        """Returns `top1` under the attack, and `clean`, the top-1 without it in float32."""
        from ddbench.measures.attack import robust_accuracy

        clean, robust = robust_accuracy(task, self.epsilon, self.steps, self.step_size)
        return {"top1": robust, "clean": clean}
