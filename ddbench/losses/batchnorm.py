"""The loss terms of teacher inversion, for any method: feature match, cross-entropy, MMD, BatchNorm matching."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.losses.features import Form, difference_size
from ddbench.nn.batchnorm_moments import Moments, moments


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
    sizes = [difference_size(a, form, (1,)) + difference_size(b, form, (1,)) for a, b in zip(*differences, strict=True)]
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
