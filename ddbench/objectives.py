"""The loss terms of teacher inversion, for any method: feature match, cross-entropy, BatchNorm matching."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ddbench.errors import DDBenchError

Form = Literal["squared", "norm"]


def feature_match(features: Tensor, targets: Tensor, form: Form) -> Tensor:
    """Distance of features [B, d] to their targets [B, d], a float32 scalar.

    "squared": the sum of squared differences (paper, Eq. 12); "norm": one Frobenius norm over the batch
    (released code, which adds `cross_entropy` with weight 1). Raises DDBenchError for another form.
    """
    return _size(features.float() - targets.float(), form, (0, 1))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [B, classes] to labels int64 [B], a float32 scalar."""
    return F.cross_entropy(logits.float(), labels)


class _Moments(torch.autograd.Function):
    """Mean and population variance over the last dimension of [B, C, N]; the gradient is one affine map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        if wide.is_cuda:
            variance, mean = torch.var_mean(wide, 2, correction=0)
        else:
            # var_mean is not vectorised on the CPU: two passes are some ten times faster, and as exact.
            mean = wide.mean(2)
            variance = (wide - mean[..., None]).square_().mean(2)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        # d mean / d x = 1 / N and d variance / d x = 2 (x - mean) / N: together slope * x + offset.
        slope = grad_variance * (2 / x.shape[2])
        offset = grad_mean / x.shape[2] - slope * mean
        return torch.addcmul(offset[..., None], x, slope[..., None]).to(x.dtype)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance over the positions of each image and channel, [B, C] each.

    x: activations [B, C, H, W], [B, C, N] or [B, C] (one position: variance 0). The result is float32 for
    lower precisions too, float64 for float64. Differentiable once.
    """
    mean, variance = _Moments.apply(x[..., None] if x.ndim == 2 else x.flatten(2))
    return mean, variance


def class_moments(x: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
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
    bn_inputs: Sequence[Tensor],
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
    total = torch.zeros((), device=class_weights.device)
    for scale, x, mean, variance in _layers(bn_inputs, means, variances, first_scale):
        class_mean, class_variance = class_moments(x, class_weights)
        distance = _size(class_mean - mean, form, (1,)) + _size(class_variance - variance, form, (1,))
        total = total + scale * (distance.sum() if form == "squared" else distance.mean())
    return total


def global_bn(
    bn_inputs: Sequence[Tensor],
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    first_scale: float = 10.0,
) -> Tensor:
    """BatchNorm matching over the whole batch: norms of the mean's and the variance's error, summed (SRe2L).

    bn_inputs as in `moments`; means and variances: [C] a layer, the running statistics. first_scale
    multiplies the first layer (10 in SRe2L). A float32 scalar, 0 without layers. Raises DDBenchError for
    lists of different lengths.
    """
    uniform = torch.ones(1, len(bn_inputs[0]), device=bn_inputs[0].device) if bn_inputs else torch.ones(1, 1)
    rows = [[statistic[None] for statistic in statistics] for statistics in (means, variances)]
    return pcbn(bn_inputs, uniform, rows[0], rows[1], "norm", first_scale)


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


def _size(difference: Tensor, form: Form, dims: tuple[int, ...]) -> Tensor:
    if form == "squared":
        return difference.square().sum(dims)
    if form == "norm":
        norm: Tensor = torch.linalg.vector_norm(difference, dim=dims)
        return norm
    raise DDBenchError(f"unknown form of a loss term '{form}': squared or norm")


def _layers(
    bn_inputs: Sequence[Tensor], means: Sequence[Tensor], variances: Sequence[Tensor], first_scale: float
) -> Iterator[tuple[float, Tensor, Tensor, Tensor]]:
    if not len(bn_inputs) == len(means) == len(variances):
        raise DDBenchError(f"{len(bn_inputs)} BatchNorm inputs, but {len(means)} means and {len(variances)} variances")
    for index, layer in enumerate(zip(bn_inputs, means, variances, strict=True)):
        yield first_scale if index == 0 else 1.0, *layer
