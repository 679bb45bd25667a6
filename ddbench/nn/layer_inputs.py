"""Inputs of any layers of a network: collection during a forward pass, and moments over channels and patches."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddbench.api.teacher import Teacher
from ddbench.core.checks import require_finite
from ddbench.core.errors import DDBenchError
from ddbench.nn import memory
from ddbench.nn.batchnorm_moments import Moments, moments
from ddbench.nn.statistics import MomentAccumulator, Variance


class Statistics(NamedTuple):
    """Mean and variance of a layer's input over images and positions, of each channel or patch.

    Attributes:
        mean: Means [C] or [P].
        variance: Population variances, of the same shape.
    """

    mean: Tensor
    variance: Tensor


def convolutions(network: nn.Module) -> list[str]:
    """Finds the two-dimensional convolutions of a network, those of shortcuts too.

    Args:
        network: Any network.

    Returns:
        Their names, in the order of definition.

    Example:
        >>> convolutions(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)))
        ['0', '2']
    """
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]


@contextmanager
def tap_inputs(network: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collects the inputs of layers in the forward passes of a block. The network is unchanged after it.

    Args:
        network: Any network.
        names: Names of its layers.

    Yields:
        The inputs of the last pass by layer. They are part of the graph of that pass.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> with tap_inputs(network, ["1"]) as inputs:
        ...     _ = network(torch.zeros(4, 2))
        >>> inputs["1"].shape
        torch.Size([4, 3])
    """
    inputs: dict[str, Tensor] = {}

    def collect(name: str, layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[name] = arguments[0]

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(network.get_submodule(name).register_forward_pre_hook(partial(collect, name)))
        yield inputs


def patch_moments(x: Tensor, patch: int) -> Moments:
    """Computes mean and population variance of each patch of feature maps, over its channels and positions.

    Source: G-VBSM (Shao et al., CVPR 2024). Maps whose sides are no multiples of the patch are enlarged to the next
    multiple, by bilinear interpolation.

    Args:
        x: Feature maps [B, C, H, W].
        patch: Side of a patch in pixels of the map.

    Returns:
        The moments [B, P] of the P patches, row by row, in float32 at least.

    Example:
        >>> x = torch.tensor([[[[1.0, 3.0, 5.0, 5.0], [1.0, 3.0, 5.0, 5.0]]]])
        >>> result = patch_moments(x, 2)
        >>> result.mean, result.variance
        (tensor([[2., 5.]]), tensor([[1., 0.]]))
    """
    rows, columns = (-(-side // patch) for side in x.shape[2:])
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if (rows * patch, columns * patch) != x.shape[2:]:
        x = functional.interpolate(x, (rows * patch, columns * patch), mode="bilinear", align_corners=False)
    patches = x.reshape(*x.shape[:2], rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
    return Moments(patches.mean(2), patches.var(2, correction=0))


@torch.no_grad()
def collect_inputs(
    network: Teacher, batches: Iterable[Tensor], names: Sequence[str], patch: int, variance: Variance
) -> dict[str, tuple[Statistics, Statistics]]:
    """Computes the statistics of the inputs of layers over real images in one pass, with one batch in memory.

    Args:
        network: The teacher.
        batches: Normalised float32 images [B, 3, S, S] on the network's device; B may vary.
        names: Names of layers whose inputs are feature maps.
        patch: Side of a patch; see `patch_moments`.
        variance: "exact", "batch-mean" or "image-mean"; see `ddbench.nn.statistics.collect`.

    Returns:
        The statistics of channels and of patches by layer, float32 on the CPU.

    Raises:
        DDBenchError: There is no image, or a statistic is not finite.
    """

    def forward(images: Tensor) -> list[Tensor]:
        with tap_inputs(network.network, names) as inputs:
            network(images, bn=False)
        every = [each for name in names for each in (inputs[name], patch_moments(inputs[name], patch))]
        return [value for x in every for value in moments(x)]

    in_parts = memory.in_parts(forward, "images")
    accumulators = [MomentAccumulator() for _ in names for _ in ("channels", "patches")]
    for images in batches:
        values = in_parts(images)
        for accumulator, means, variances in zip(accumulators, values[::2], values[1::2], strict=True):
            accumulator.add(means, variances)
    if accumulators and not accumulators[0].count:
        raise DDBenchError("statistics need at least one image")
    every = [Statistics(*(value.float().cpu() for value in each.statistics(variance))) for each in accumulators]
    collected = dict(zip(names, zip(every[::2], every[1::2], strict=True), strict=True))
    for name, both in collected.items():
        tensors = {f"the input of {name}": torch.cat([value for statistics in both for value in statistics])}
        require_finite("statistics", tensors, "; check the teacher's weights")
    return collected
