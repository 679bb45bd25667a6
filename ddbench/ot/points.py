"""Weighted point sets, and the checks of what the solvers are given."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.core.errors import DDBenchError


@dataclass(frozen=True)
class Barycenter:
    """A weighted point set that stands for one class: `points` [m, d], `weights` [m] (at least 0, sum 1)."""

    points: Tensor
    weights: Tensor


def check_count(m: int, n: int) -> None:
    if not 1 <= m <= n:
        raise DDBenchError(f"cannot place {m} barycenter points on a class of {n} features")


def check_finite(values: Tensor, what: str) -> None:
    # The extremes carry every NaN and infinity, and are found in one pass.
    if values.ndim != 2 or values.numel() == 0 or not bool(torch.stack(values.aminmax()).isfinite().all()):
        raise DDBenchError(f"{what} must be a finite matrix with at least one row, got shape {tuple(values.shape)}")


def float64_on_cpu(values: Tensor, what: str) -> Tensor:
    """`values` [n, d] as POT needs them. Raises DDBenchError where a value is not finite."""
    check_finite(values, what)
    return values.detach().to("cpu", torch.float64)
