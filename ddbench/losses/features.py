"""The loss terms of teacher inversion, for any method: feature match, cross-entropy, MMD, BatchNorm matching."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ddbench.core.errors import DDBenchError

Form = Literal["squared", "norm"]


def feature_match(features: Tensor, targets: Tensor, form: Form) -> Tensor:
    """Distance of features [B, d] to their targets [B, d], a float32 scalar.

    "squared": the sum of squared differences (paper, Eq. 12); "norm": one Frobenius norm over the batch
    (released code, which adds `cross_entropy` with weight 1). Raises DDBenchError for another form.
    """
    return difference_size(features.float() - targets.float(), form, (0, 1))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [B, classes] to labels int64 [B], a float32 scalar."""
    return F.cross_entropy(logits.float(), labels)


def mean_match(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance of the means of x [..., B, d] and y [..., n, d], [...]: MMD^2 under the linear kernel (DM).

    float32 for lower precisions, float64 for float64.
    """
    a, b = common_float(x, y)
    return (a.mean(-2) - b.mean(-2)).square().sum(-1)


def common_float(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in their common type, at least float32."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def difference_size(difference: Tensor, form: Form, dims: tuple[int, ...]) -> Tensor:
    if form == "squared":
        return difference.square().sum(dims)
    if form == "norm":
        norm: Tensor = torch.linalg.vector_norm(difference, dim=dims)
        return norm
    raise DDBenchError(f"unknown form of a loss term '{form}': squared or norm")
