"""The loss terms of teacher inversion, for any method: feature match, cross-entropy, MMD, BatchNorm matching."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.losses.features import common_float
from ddbench.ot.exact import squared_distances

_UNIFORM = "the unbiased MMD is for uniform weights: leave out the weights, or take the biased one"


def gaussian_mmd(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | Tensor,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    unbiased: bool = False,
    y_kernel_mean: Tensor | None = None,
) -> Tensor:
    """Squared MMD of samples x [..., B, d] and y [..., n, d] under a sum of Gaussian kernels, [...].

    The kernel is sum_s exp(-||a - b||^2 / (2 s^2)) over `bandwidths`, [q] or [..., q], all positive (see
    `median_bandwidths`). x_weights [..., B] and y_weights [..., n], on any scale, not negative: masses of the
    samples, uniform where None. The biased form (V-statistic; Gretton et al. 2012, Eq. 5) is the squared MMD
    of the two weighted measures; the unbiased one (U-statistic, Eq. 3) leaves out the pairs of a sample with
    itself, and is for uniform weights and two samples or more a side. `y_kernel_mean`: what
    `gaussian_kernel_mean` gave for y, where y stays and x moves. float32 for lower precisions, float64 for
    float64. Raises DDBenchError on bandwidths that are not positive, and on weights or a single sample where
    `unbiased`.
    """
    if unbiased and y_weights is not None:
        raise DDBenchError(_UNIFORM)
    own = gaussian_kernel_mean(x, bandwidths, x_weights, unbiased)
    if y_kernel_mean is None:
        y_kernel_mean = gaussian_kernel_mean(y, bandwidths, y_weights, unbiased)
    return own + y_kernel_mean - 2 * _expected_kernel(x, y, bandwidths, x_weights, y_weights)


def gaussian_kernel_mean(
    x: Tensor, bandwidths: Sequence[float] | Tensor, weights: Tensor | None = None, unbiased: bool = False
) -> Tensor:
    """Mean of the kernel of `gaussian_mmd` over the pairs of x [..., B, d], [...]; arguments as there."""
    if unbiased and weights is not None:
        raise DDBenchError(_UNIFORM)
    mean, count = _expected_kernel(x, x, bandwidths, weights, weights), x.shape[-2]
    if not unbiased:
        return mean
    if count < 2:
        raise DDBenchError("the unbiased MMD needs two samples a side or more")
    # k(a, a) is the number of kernels: it goes out of the sum, and the other pairs share the whole mass.
    return (mean - _checked(bandwidths).shape[-1] / count) * (count / (count - 1))


def median_bandwidths(y: Tensor, multiples: Sequence[float] = (0.5, 0.5**0.5, 1.0, 2**0.5, 2.0)) -> Tensor:
    """Bandwidths [q] for `gaussian_mmd`: the median distance between the rows of y [n, d], times `multiples`.

    The median heuristic of Gretton et al. 2012, over all pairs of different rows (the lower of the middle two),
    in float64; of the real samples alone, so that it stays fixed while the synthetic ones move. By default
    five kernels whose squared bandwidths double from one to the next, the ladder of M3D (Zhang et al., AAAI
    2024), which sets it about the mean squared distance of all samples. Raises DDBenchError where the median
    is 0 or not finite, and on fewer than two rows.
    """
    if len(y) < 2:
        raise DDBenchError("the median heuristic needs at least two samples")
    median = torch.pdist(y.detach().double()).median()
    if not (0 < float(median) < float("inf")):
        raise DDBenchError(f"the median distance of {len(y)} samples is {float(median):g}: no bandwidth for an MMD")
    return (median * torch.tensor(list(multiples), dtype=torch.float64, device=y.device)).to(
        y if y.is_floating_point() else torch.float32
    )


def _expected_kernel(
    x: Tensor, y: Tensor, bandwidths: Sequence[float] | Tensor, x_weights: Tensor | None, y_weights: Tensor | None
) -> Tensor:
    """Mean [...] of the kernel of `gaussian_mmd` over all pairs of x [..., B, d] and y [..., n, d]."""
    a, b = common_float(x, y)
    # About y's mean: distances stay, digits that a common offset would cost are kept.
    centre = b.detach().mean(-2, keepdim=True)
    with torch.autocast(a.device.type, enabled=False):  # bf16 products would drown the distances
        distances = squared_distances(a - centre, b - centre)
    kernel = torch.zeros_like(distances)
    for scale in _checked(bandwidths).to(a).unbind(-1):
        kernel = kernel + (distances / (-2 * scale.square()[..., None, None])).exp()
    masses = _masses(a, x_weights).unsqueeze(-1) * _masses(b, y_weights).unsqueeze(-2)
    return (masses * kernel).sum((-2, -1))


def _masses(samples: Tensor, weights: Tensor | None) -> Tensor:
    """Masses [..., B] of samples [..., B, d] that sum to 1."""
    if weights is None:
        return samples.new_full((samples.shape[-2],), 1 / samples.shape[-2])
    masses = weights.to(samples)
    return masses / masses.sum(-1, keepdim=True)


def _checked(bandwidths: Sequence[float] | Tensor) -> Tensor:
    scales = bandwidths if isinstance(bandwidths, Tensor) else torch.tensor(bandwidths, dtype=torch.float64)
    if not bool((scales > 0).all()):
        raise DDBenchError(f"the bandwidths of a Gaussian kernel must be positive, got {scales.tolist()}")
    return scales
