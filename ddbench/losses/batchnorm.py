"""Loss terms on the inputs of BatchNorm layers: per-class (PCBN) and global matching of mean and variance."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.losses.features import Form, difference_size
from ddbench.nn.batchnorm_moments import Moments, moments


def class_moments(x: Tensor | Moments, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the weighted mean and population variance per class and channel.

    Source: paper, Eq. 14. The variance is about the class mean. It includes the variance within images and between
    them.

    Args:
        x: Activations [B, C, ...], or their moments; see `ddbench.nn.moments`.
        class_weights: Weights [K, B]: row k weighs the images of class k, on any scale, and is 0 elsewhere.

    Returns:
        A tuple of means and variances, [K, C] each, in the dtype of the moments.

    Example:
        >>> x = torch.tensor([[1.0], [3.0], [9.0]])
        >>> class_moments(x, torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        (tensor([[2.],
                [9.]]), tensor([[1.],
                [0.]]))
    """
    mean, variance = moments(x)
    # The matrices are small. float64 avoids autocast and TF32 in the products and cancellation in E[x^2] - E[x]^2.
    weights, image_mean, image_variance = class_weights.double(), mean.double(), variance.double()
    # The sums of the float32 rows differ too much from 1 for E[x^2] - E[x]^2.
    weights = weights / weights.sum(1, keepdim=True)
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
    """Computes the per-class BatchNorm matching loss (PCBN).

    Compares the weighted statistics of each class's synthetic images with those of its real images, at every BatchNorm
    layer. The released code weighs the images of a class uniformly; here `class_weights` determines their weights.

    Args:
        bn_inputs: Input of each BatchNorm layer, or its moments; see `ddbench.nn.moments`.
        class_weights: Weights [K, B]; see `class_moments`.
        means: Target means [K, C] of each layer, rows in the order of `class_weights`.
        variances: Target variances [K, C] of each layer.
        form: "squared": squared distances, summed over classes and layers (paper, Eq. 13). "norm": unsquared distances,
            averaged over classes and summed over layers (released code).
        first_scale: Factor on the first layer.

    Returns:
        A float32 scalar; 0 without layers.

    Raises:
        DDBenchError: `form` is unknown, or the lists differ in length.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> pcbn([x], torch.ones(1, 2), [torch.tensor([[0.0]])], [torch.tensor([[4.0]])], "squared")
        tensor(13.)
        >>> pcbn([x], torch.ones(1, 2), [torch.tensor([[0.0]])], [torch.tensor([[4.0]])], "norm")
        tensor(5.)
    """
    if not len(bn_inputs) == len(means) == len(variances):
        raise DDBenchError(f"{len(bn_inputs)} BatchNorm inputs, but {len(means)} means and {len(variances)} variances")
    if not bn_inputs:
        return torch.zeros((), device=class_weights.device)
    # Concatenate the layers: one product of small matrices per layer would cost more than the passes over activations.
    layers = [moments(x) for x in bn_inputs]
    widths = [mean.shape[1] for mean, _ in layers]
    stacked = Moments(*(torch.cat(statistic, 1) for statistic in zip(*layers, strict=True)))
    pairs = zip(class_moments(stacked, class_weights), (means, variances), strict=True)
    differences = [torch.split(synthetic - torch.cat(list(real), 1), widths, 1) for synthetic, real in pairs]
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
    """Computes the BatchNorm matching loss over the whole batch.

    Source: SRe2L (Yin et al., NeurIPS 2023): unsquared norms of the errors of mean and variance, summed over layers,
    the first layer multiplied by 10. The variance is the population variance.

    Args:
        bn_inputs: Input of each BatchNorm layer, or its moments; see `ddbench.nn.moments`.
        means: Target means [C] of each layer: the running means.
        variances: Target variances [C] of each layer: the running variances.
        first_scale: Factor on the first layer (SRe2L: 10).
        form: "norm" (SRe2L) or "squared"; see `pcbn`.

    Returns:
        A float32 scalar; 0 without layers.

    Raises:
        DDBenchError: `form` is unknown, or the lists differ in length.

    Example:
        >>> global_bn([torch.tensor([[1.0], [3.0]])], [torch.tensor([0.0])], [torch.tensor([4.0])], first_scale=1.0)
        tensor(5.)
    """
    uniform = torch.ones(1, len(bn_inputs[0]), device=bn_inputs[0].device) if bn_inputs else torch.ones(1, 1)
    rows = [[statistic[None] for statistic in statistics] for statistics in (means, variances)]
    return pcbn(bn_inputs, uniform, rows[0], rows[1], form, first_scale)


def class_weight_matrix(labels: Tensor, weights: Tensor) -> Tensor:
    """Builds the class weights for `class_moments` and `pcbn`.

    Args:
        labels: Class of each image, int64 [B].
        weights: Weight of each image, float [B], at least 0.

    Returns:
        Weights [K, B]: one row for each class in the batch, in ascending order, of sum 1.

    Raises:
        DDBenchError: A weight is negative or not finite, or all weights of a class are 0.

    Example:
        >>> class_weight_matrix(torch.tensor([7, 2, 7]), torch.tensor([1.0, 1.0, 3.0]))
        tensor([[0.0000, 1.0000, 0.0000],
                [0.2500, 0.0000, 0.7500]])
    """
    member = labels == torch.unique(labels)[:, None]
    rows = torch.where(member, weights, 0.0)
    sums = rows.sum(1, keepdim=True)
    if not (weights.isfinite().all() and (weights >= 0).all() and (sums > 0).all()):
        raise DDBenchError("weights must be finite and not negative, with a positive sum in every class")
    return rows / sums
