"""The input checks of the transport solvers."""

import pytest
import torch

from ddbench.core.errors import DDBenchError
from ddbench.ot.points import check_count, check_finite, checked_weights, float64_on_cpu


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 5), (5, 5)])
def test_counts_that_fit(m: int, n: int) -> None:
    check_count(m, n)


@pytest.mark.parametrize(("m", "n"), [(0, 1), (-1, 4), (6, 5), (1, 0)])
def test_counts_that_do_not(m: int, n: int) -> None:
    with pytest.raises(DDBenchError, match=f"cannot place {m} barycenter points on a class of {n} features"):
        check_count(m, n)


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(3),
        torch.zeros(0, 2),
        torch.zeros(2, 0),
        torch.zeros(1, 2, 3),
        torch.tensor([[0.0, float("nan")]]),
        torch.tensor([[float("inf"), 0.0]]),
        torch.tensor([[0.0], [-float("inf")]]),
    ],
)
def test_values_that_are_no_finite_matrix(values: torch.Tensor) -> None:
    with pytest.raises(DDBenchError, match="features must be a finite matrix with at least one row, got shape"):
        check_finite(values, "features")


def test_values_become_float64_without_a_gradient() -> None:
    actual = float64_on_cpu(torch.tensor([[0.5, 2.0]], dtype=torch.bfloat16, requires_grad=True), "points")
    assert (actual.dtype, actual.requires_grad, actual.tolist()) == (torch.float64, False, [[0.5, 2.0]])


def test_weights_are_scaled_to_sum_one() -> None:
    weights = checked_weights(torch.tensor([0.25, 0.75 + 5e-5], dtype=torch.float64), 2)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-15)
    assert float(weights[1] / weights[0]) == pytest.approx((0.75 + 5e-5) / 0.25)


@pytest.mark.parametrize(
    "weights", [[0.5, 0.6], [1.5, -0.5], [1.0], [0.5, 0.25, 0.25], [float("nan"), 1.0], [0.0, 0.0]]
)
def test_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(DDBenchError, match="transport needs 2 weights that are at least 0 and sum to 1"):
        checked_weights(torch.tensor(weights), 2)
