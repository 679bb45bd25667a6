"""Loss terms on features and logits: feature match, mean match and cross-entropy."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ddbench.core.errors import DDBenchError

Form = Literal["squared", "norm"]
"""Form of a distance term: a sum of squares (paper) or an unsquared norm (released code)."""


def feature_match(features: Tensor, targets: Tensor, form: Form) -> Tensor:
    """Computes the distance of features to their targets.

    Args:
        features: Features of the images, [B, d].
        targets: Barycenter point of each image, [B, d].
        form: "squared": the sum of squared differences (paper, Eq. 12). "norm": one Frobenius norm over the batch
            (released code, which adds `cross_entropy` with weight 1).

    Returns:
        A float32 scalar.

    Raises:
        DDBenchError: `form` is unknown.

    Example:
        >>> feature_match(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]), "squared")
        tensor(25.)
        >>> feature_match(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]), "norm")
        tensor(5.)
    """
    return difference_size(features.float() - targets.float(), form, (0, 1))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes the mean cross-entropy over a batch, in float32.

    Args:
        logits: Logits [B, K], of any floating type.
        labels: Class of each image, int64 [B].

    Returns:
        A float32 scalar, in nats.

    Example:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
    """
    return F.cross_entropy(logits.float(), labels)


def mean_match(x: Tensor, y: Tensor) -> Tensor:
    """Computes the squared distance of two sample means: the squared MMD under the linear kernel.

    Source: DM (Zhao and Bilen, WACV 2023).

    Args:
        x: Samples [..., B, d].
        y: Samples [..., n, d].

    Returns:
        Distances [...], in the common dtype of the samples, at least float32.

    Example:
        >>> mean_match(torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0]]))
        tensor(9.)
    """
    a, b = common_float(x, y)
    return (a.mean(-2) - b.mean(-2)).square().sum(-1)


def common_float(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Converts two tensors to their common dtype, at least float32.

    Args:
        x: A floating-point tensor.
        y: A floating-point tensor.

    Returns:
        Both tensors in the common dtype.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def difference_size(difference: Tensor, form: Form, dims: tuple[int, ...]) -> Tensor:
    """Reduces a difference to its size: the sum of squares or the norm.

    Args:
        difference: Any tensor.
        form: "squared": the sum of squares; "norm": its square root.
        dims: Dimensions to reduce.

    Returns:
        The reduced tensor.

    Raises:
        DDBenchError: `form` is unknown.

    Example:
        >>> difference_size(torch.tensor([[3.0, 4.0]]), "norm", (1,))
        tensor([5.])
    """
    if form == "squared":
        return difference.square().sum(dims)
    if form == "norm":
        norm: Tensor = torch.linalg.vector_norm(difference, dim=dims)
        return norm
    raise DDBenchError(f"unknown form of a loss term '{form}': use squared or norm")
