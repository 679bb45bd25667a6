"""The loss terms of teacher inversion, for any method: feature match, cross-entropy, MMD, BatchNorm matching."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ddbench.errors import DDBenchError
from ddbench.moments import Moments as Moments
from ddbench.moments import moments as moments
from ddbench.transport import squared_distances

Form = Literal["squared", "norm"]

_UNIFORM = "the unbiased MMD is for uniform weights: leave out the weights, or take the biased one"


def feature_match(features: Tensor, targets: Tensor, form: Form) -> Tensor:
    """Distance of features [B, d] to their targets [B, d], a float32 scalar.

    "squared": the sum of squared differences (paper, Eq. 12); "norm": one Frobenius norm over the batch
    (released code, which adds `cross_entropy` with weight 1). Raises DDBenchError for another form.
    """
    return _size(features.float() - targets.float(), form, (0, 1))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [B, classes] to labels int64 [B], a float32 scalar."""
    return F.cross_entropy(logits.float(), labels)


def mean_match(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance of the means of x [..., B, d] and y [..., n, d], [...]: MMD^2 under the linear kernel (DM).

    float32 for lower precisions, float64 for float64.
    """
    a, b = _wide(x, y)
    return (a.mean(-2) - b.mean(-2)).square().sum(-1)


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


def class_moments(x: Tensor | Moments, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and population variance per class and channel, [K, C] each (paper, Eq. 14).

    x: activations as in `moments`; class_weights [K, B]: a row weighs the images of one class, on any scale.
    The variance is about the class's own mean: within images plus between them.
    """
    mean, variance = moments(x)
    # Small matrices in float64: no autocast and no TF32 in the products, nothing lost in E[x^2] - E[x]^2.
    weights, image_mean, image_variance = class_weights.double(), mean.double(), variance.double()
    weights = weights / weights.sum(1, keepdim=True)  # float32 rows miss 1 by enough to spoil the difference
    class_mean = weights @ image_mean
    class_variance = weights @ (image_variance + image_mean.square()) - class_mean.square()
    return class_mean.to(mean.dtype), class_variance.to(mean.dtype)


def pcbn(
    bn_inputs: Sequence[Tensor | Moments],
    class_weights: Tensor,
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    form: Form,
    first_scale: float = 1.0,
) -> Tensor:
    """Per-class BatchNorm matching: how far each class's statistics are from those of its real images.

    bn_inputs: what feeds each BatchNorm layer, as in `moments`; class_weights [K, B] as in `class_moments`;
    means and variances: [K, C] a layer, in the rows' order. "squared": squared distances summed over classes
    and layers (paper, Eq. 13); "norm": distances averaged over classes, summed over layers (released code,
    which weighs the images of a class uniformly). first_scale multiplies the first layer. A float32 scalar, 0
    without layers. Raises DDBenchError for another form and for lists of different lengths.
    """
    if not len(bn_inputs) == len(means) == len(variances):
        raise DDBenchError(f"{len(bn_inputs)} BatchNorm inputs, but {len(means)} means and {len(variances)} variances")
    if not bn_inputs:
        return torch.zeros((), device=class_weights.device)
    # All layers side by side: a product of small matrices for each would cost more than the passes over activations.
    found = [Moments(*moments(x)) for x in bn_inputs]
    whole = Moments(torch.cat([layer.mean for layer in found], 1), torch.cat([layer.variance for layer in found], 1))
    widths = [layer.mean.shape[1] for layer in found]
    pairs = zip(class_moments(whole, class_weights), (means, variances), strict=True)
    differences = [torch.split(mine - torch.cat(list(theirs), 1), widths, 1) for mine, theirs in pairs]
    sizes = [_size(a, form, (1,)) + _size(b, form, (1,)) for a, b in zip(*differences, strict=True)]
    distances = torch.stack([first_scale * sizes[0], *sizes[1:]])
    return distances.sum() if form == "squared" else distances.mean(1).sum()


def global_bn(
    bn_inputs: Sequence[Tensor | Moments],
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    first_scale: float = 10.0,
    form: Form = "norm",
) -> Tensor:
    """BatchNorm matching over the whole batch: errors of mean and variance, summed over layers (SRe2L: "norm").

    bn_inputs as in `moments`; means and variances: [C] a layer, the running statistics. first_scale
    multiplies the first layer (10 in SRe2L); form as in `pcbn`. A float32 scalar, 0 without layers. Raises
    DDBenchError for another form and for lists of different lengths.
    """
    uniform = torch.ones(1, len(bn_inputs[0]), device=bn_inputs[0].device) if bn_inputs else torch.ones(1, 1)
    rows = [[statistic[None] for statistic in statistics] for statistics in (means, variances)]
    return pcbn(bn_inputs, uniform, rows[0], rows[1], form, first_scale)


def class_weight_matrix(labels: Tensor, weights: Tensor) -> Tensor:
    """Class weights [K, B] for `class_moments`: a row for each class of the batch, sorted, summing to 1.

    labels: int64 [B]; weights: float [B], not negative. Raises DDBenchError where a weight is negative or not
    finite, or those of a class are all 0.
    """
    member = labels == torch.unique(labels)[:, None]
    rows = torch.where(member, weights, 0.0)
    sums = rows.sum(1, keepdim=True)
    if not (weights.isfinite().all() and (weights >= 0).all() and (sums > 0).all()):
        raise DDBenchError("weights must be finite and not negative, with a positive sum in every class")
    return rows / sums


def _wide(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in their common type, at least float32."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def _checked(bandwidths: Sequence[float] | Tensor) -> Tensor:
    scales = bandwidths if isinstance(bandwidths, Tensor) else torch.tensor(bandwidths, dtype=torch.float64)
    if not bool((scales > 0).all()):
        raise DDBenchError(f"the bandwidths of a Gaussian kernel must be positive, got {scales.tolist()}")
    return scales


def _expected_kernel(
    x: Tensor, y: Tensor, bandwidths: Sequence[float] | Tensor, x_weights: Tensor | None, y_weights: Tensor | None
) -> Tensor:
    """Mean [...] of the kernel of `gaussian_mmd` over all pairs of x [..., B, d] and y [..., n, d]."""
    a, b = _wide(x, y)
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


def _size(difference: Tensor, form: Form, dims: tuple[int, ...]) -> Tensor:
    if form == "squared":
        return difference.square().sum(dims)
    if form == "norm":
        norm: Tensor = torch.linalg.vector_norm(difference, dim=dims)
        return norm
    raise DDBenchError(f"unknown form of a loss term '{form}': squared or norm")
