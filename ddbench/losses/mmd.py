"""Maximum mean discrepancy (MMD) under Gaussian kernels (Gretton et al. 2012)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.losses.features import common_float
from ddbench.ot.exact import squared_distances

_UNIFORM = "the unbiased MMD takes no weights: leave out the weights, or use the biased MMD"


def gaussian_mmd(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | Tensor,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    unbiased: bool = False,
    y_kernel_mean: Tensor | None = None,
) -> Tensor:
    """Computes the squared MMD of two sample sets under a sum of Gaussian kernels.

    The kernel is sum_s exp(-||a - b||^2 / (2 s^2)) over the bandwidths s. The biased form (V-statistic; Gretton et al.
    2012, Eq. 5) is the squared MMD of the two weighted measures. The unbiased form (U-statistic, Eq. 3) leaves out the
    pairs of a sample with itself. Weights are our extension of the biased form.

    Args:
        x: Samples [..., B, d].
        y: Samples [..., n, d].
        bandwidths: Bandwidths s, [q] or [..., q], all positive, in units of the samples; see `median_bandwidths`.
        x_weights: Masses of x, [..., B], at least 0, on any scale; None: uniform.
        y_weights: Masses of y, [..., n], as `x_weights`.
        unbiased: Whether to compute the unbiased form. It takes no weights and needs two samples or more on each side.
        y_kernel_mean: The result of `gaussian_kernel_mean` for y, to reuse it while x changes; None: computed here.

    Returns:
        Squared MMD [...], in the common dtype of the samples, at least float32.

    Raises:
        DDBenchError: A bandwidth is not positive, or `unbiased` is used with weights or a single sample.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> gaussian_mmd(x, x, [1.0])
        tensor(0.)
        >>> gaussian_mmd(x, torch.tensor([[0.0]]), [1.0])
        tensor(0.1967)
    """
    if unbiased and y_weights is not None:
        raise DDBenchError(_UNIFORM)
    x_kernel_mean = gaussian_kernel_mean(x, bandwidths, x_weights, unbiased)
    if y_kernel_mean is None:
        y_kernel_mean = gaussian_kernel_mean(y, bandwidths, y_weights, unbiased)
    return x_kernel_mean + y_kernel_mean - 2 * _expected_kernel(x, y, bandwidths, x_weights, y_weights)


def gaussian_kernel_mean(
    x: Tensor, bandwidths: Sequence[float] | Tensor, weights: Tensor | None = None, unbiased: bool = False
) -> Tensor:
    """Computes the mean of the kernel of `gaussian_mmd` over all pairs of one sample set.

    Args:
        x: Samples [..., B, d].
        bandwidths: Bandwidths, [q] or [..., q], all positive.
        weights: Masses of the samples, [..., B], at least 0, on any scale; None: uniform.
        unbiased: Whether to leave out the pairs of a sample with itself; takes no weights.

    Returns:
        Means [...], in the dtype of the samples, at least float32.

    Raises:
        DDBenchError: A bandwidth is not positive, or `unbiased` is used with weights or a single sample.

    Example:
        >>> gaussian_kernel_mean(torch.tensor([[0.0], [1.0]]), [1.0])
        tensor(0.8033)
        >>> gaussian_kernel_mean(torch.tensor([[0.0], [1.0]]), [1.0], unbiased=True)
        tensor(0.6065)
    """
    if unbiased and weights is not None:
        raise DDBenchError(_UNIFORM)
    mean, count = _expected_kernel(x, x, bandwidths, weights, weights), x.shape[-2]
    if not unbiased:
        return mean
    if count < 2:
        raise DDBenchError("the unbiased MMD needs two or more samples on each side")
    # k(a, a) is the number of kernels: subtract it and rescale the mass of the other pairs to 1.
    return (mean - _as_bandwidths(bandwidths).shape[-1] / count) * (count / (count - 1))


def median_bandwidths(y: Tensor, multiples: Sequence[float] = (0.5, 0.5**0.5, 1.0, 2**0.5, 2.0)) -> Tensor:
    """Computes bandwidths for `gaussian_mmd` by the median heuristic.

    The median is over the distances of all pairs of different rows (the lower of the middle two), in float64 (Gretton
    et al. 2012). By default it is multiplied by five factors, so that squared bandwidths double from one kernel to the
    next, as in M3D (Zhang et al., AAAI 2024). M3D scales them by the mean squared distance of real and synthetic
    samples; here they depend only on the real samples, so that they stay the same when the synthetic samples change.

    Args:
        y: Real samples [n, d], two or more.
        multiples: Factors on the median distance.

    Returns:
        Bandwidths [q], in the dtype of `y` (float32 for integers) and on its device.

    Raises:
        DDBenchError: The median distance is 0 or not finite, or there are fewer than two rows.

    Example:
        >>> median_bandwidths(torch.tensor([[0.0], [1.0], [3.0]]), multiples=(0.5, 1.0))
        tensor([1., 2.])
    """
    if len(y) < 2:
        raise DDBenchError(f"the median heuristic needs two samples or more, got {len(y)}")
    median = torch.pdist(y.detach().double()).median()
    if not (0 < float(median) < float("inf")):
        raise DDBenchError(
            f"the median distance of {len(y)} samples is {float(median):g}, so no MMD bandwidth can be computed"
        )
    return (median * torch.tensor(list(multiples), dtype=torch.float64, device=y.device)).to(
        y if y.is_floating_point() else torch.float32
    )


def _expected_kernel(
    x: Tensor, y: Tensor, bandwidths: Sequence[float] | Tensor, x_weights: Tensor | None, y_weights: Tensor | None
) -> Tensor:
    """Returns the mean [...] of the kernel of `gaussian_mmd` over all pairs of x [..., B, d] and y [..., n, d]."""
    a, b = common_float(x, y)
    # Centre on the mean of y: distances do not change, and cancellation with a common offset is avoided.
    centre = b.detach().mean(-2, keepdim=True)
    with torch.autocast(a.device.type, enabled=False):  # with bf16 products, small distances are lost in rounding
        distances = squared_distances(a - centre, b - centre)
    kernel = torch.zeros_like(distances)
    for scale in _as_bandwidths(bandwidths).to(a).unbind(-1):
        kernel = kernel + (distances / (-2 * scale.square()[..., None, None])).exp()
    masses = _masses(a, x_weights).unsqueeze(-1) * _masses(b, y_weights).unsqueeze(-2)
    return (masses * kernel).sum((-2, -1))


def _masses(samples: Tensor, weights: Tensor | None) -> Tensor:
    """Returns masses [..., B] of samples [..., B, d], of sum 1."""
    if weights is None:
        return samples.new_full((samples.shape[-2],), 1 / samples.shape[-2])
    masses = weights.to(samples)
    return masses / masses.sum(-1, keepdim=True)


def _as_bandwidths(bandwidths: Sequence[float] | Tensor) -> Tensor:
    scales = bandwidths if isinstance(bandwidths, Tensor) else torch.tensor(bandwidths, dtype=torch.float64)
    if not bool((scales > 0).all()):
        raise DDBenchError(f"the bandwidths of a Gaussian kernel must be positive, got {scales.tolist()}")
    return scales
