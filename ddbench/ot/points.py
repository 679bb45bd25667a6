"""Weighted point sets, and the input checks that the transport solvers share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError

WEIGHT_TOLERANCE = 1e-4
"""Largest deviation of the sum of weights from 1; sums within it are rescaled to 1."""


@dataclass(frozen=True)
class Barycenter:
    """A weighted point set that represents one class.

    Attributes:
        points: Positions in feature space, [m, d].
        weights: Mass of each point, [m]: at least 0, sum 1.
    """

    points: Tensor
    weights: Tensor


def check_count(m: int, n: int) -> None:
    """Checks that `m` points can be chosen among `n` features.

    Args:
        m: Number of barycenter points.
        n: Number of features of the class.

    Raises:
        DDBenchError: `m` is less than 1 or more than `n`.
    """
    if not 1 <= m <= n:
        raise DDBenchError(f"cannot place {m} barycenter points on a class of {n} features")


def check_finite(values: Tensor, name: str) -> None:
    """Checks that `values` is a finite matrix with at least one row.

    Args:
        values: The tensor to check.
        name: Name of the tensor in the error message.

    Raises:
        DDBenchError: `values` has not two dimensions, is empty, or holds NaN or infinity.
    """
    # If a value is NaN or infinite, so is the minimum or the maximum, and one pass computes both.
    if values.ndim != 2 or values.numel() == 0 or not bool(torch.stack(values.aminmax()).isfinite().all()):
        raise DDBenchError(f"{name} must be a finite matrix with at least one row, got shape {tuple(values.shape)}")


def float64_on_cpu(values: Tensor, name: str) -> Tensor:
    """Converts a matrix to what POT needs: detached, float64, on the CPU.

    Args:
        values: Matrix [n, d] of any floating type, on any device.
        name: Name of the tensor in the error message.

    Returns:
        The same values, float64 [n, d] on the CPU.

    Raises:
        DDBenchError: See `check_finite`.
    """
    check_finite(values, name)
    return values.detach().to("cpu", torch.float64)


def checked_weights(weights: Tensor, count: int) -> Tensor:
    """Checks that `weights` lie on the simplex and rescales them to sum 1.

    Args:
        weights: Masses [m], at least 0, of sum 1 within `WEIGHT_TOLERANCE`.
        count: The expected number of weights.

    Returns:
        The weights divided by their sum.

    Raises:
        DDBenchError: A weight is negative or NaN, the sum is not 1, or the number is not `count`.
    """
    total = weights.sum()
    if weights.shape != (count,) or not (bool((weights >= 0).all()) and abs(float(total) - 1) < WEIGHT_TOLERANCE):
        raise DDBenchError(
            f"transport needs {count} weights that are at least 0 and sum to 1, "
            f"got {weights.numel()} that sum to {float(total):g}"
        )
    return weights / total
