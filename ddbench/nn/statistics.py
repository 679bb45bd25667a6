"""Statistics of one class of real images: the teacher's features, and mean and variance of the BatchNorm inputs."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from ddbench.api.teacher import ClassStatistics
from ddbench.core.checks import require_finite
from ddbench.core.errors import DDBenchError
from ddbench.nn import memory
from ddbench.nn.batchnorm_moments import moments
from ddbench.nn.taps import TappedNetwork

Variance = Literal["exact", "batch-mean", "image-mean"]


class MomentAccumulator:
    """Merges mean and variance per channel over batches, one batch at a time (Chan et al., 1983), in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.within = self.between = self.within_images = torch.zeros((), dtype=torch.float64)

    def add(self, means: Tensor, variances: Tensor) -> None:
        """Adds a batch, given the mean and variance of each image, [B, C] each."""
        means, variances = means.double(), variances.double()
        size, mean = len(means), means.mean(0)
        variance = variances.mean(0) + means.var(0, correction=0)
        shift = mean - self.mean
        self.between = self.between + shift.square() * (self.count * size / (self.count + size))
        self.within = self.within + variance * size
        self.within_images = self.within_images + variances.sum(0)
        self.count += size
        self.mean = self.mean + shift * (size / self.count)

    def statistics(self, variance: Variance) -> tuple[Tensor, Tensor]:
        """Returns the mean and the variance of all batches; see `collect`."""
        totals = {
            "exact": self.within + self.between,
            "batch-mean": self.within,
            "image-mean": self.within_images,
        }
        return self.mean, totals[variance] / self.count


@torch.no_grad()
def collect(
    network: TappedNetwork, batches: Iterable[Tensor], variance: Variance, layer: int | None = None
) -> ClassStatistics:
    """Computes features and BatchNorm-input statistics of one class in one pass, with one batch in memory.

    If memory runs out, a batch passes through the network in parts, with the same result up to rounding.

    Args:
        network: The teacher.
        batches: Normalised float32 images [B, 3, S, S] of one class, on the network's device; B may vary.
        variance: Population variance over images and positions. "exact": over all images, by the law of total variance,
            independent of the batches. "batch-mean": the mean of the within-batch variances weighted by batch size
            (released code), which lacks the variance of the batch means. "image-mean": the mean of the variances of the
            images.
        layer: Number of the layer whose input gives the features; see `TappedNetwork.forward`. None: the input of the
            classifier.

    Returns:
        The statistics, float32 on the CPU.

    Raises:
        DDBenchError: There is no image or no such layer, or a statistic is not finite.
    """

    def forward(images: Tensor) -> list[Tensor]:
        output = network(images, layer=layer)
        return [output.features, *(value for x in output.bn_inputs for value in moments(x))]

    in_parts = memory.in_parts(forward, "images")
    features: list[Tensor] = []
    accumulators = [MomentAccumulator() for _ in network.bn_names]
    for images in batches:
        batch_features, *values = in_parts(images)
        features.append(batch_features.float().cpu())
        for accumulator, means, variances in zip(accumulators, values[::2], values[1::2], strict=True):
            accumulator.add(means, variances)
    if not features:
        raise DDBenchError("statistics need at least one image of the class")
    merged = [part.statistics(variance) for part in accumulators]
    statistics = ClassStatistics(
        torch.cat(features), [mean.float().cpu() for mean, _ in merged], [value.float().cpu() for _, value in merged]
    )
    tensors = {"the teacher's features": statistics.features}
    for name, mean, spread in zip(network.bn_names, statistics.bn_means, statistics.bn_vars, strict=True):
        tensors |= {f"the mean before {name}": mean, f"the variance before {name}": spread}
    require_finite("statistics", tensors, "; check the teacher's weights")
    return statistics
