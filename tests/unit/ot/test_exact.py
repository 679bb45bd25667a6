"""Exact transport: plans, costs and duals against linear programs."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import linprog
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.core.seeds import generator
from ddbench.ot.exact import nearest_shares, squared_distances, transport_cost, transport_plan


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator("test", seed), dtype=torch.float64)


def exactly(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def all_pairs(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)


def linear_program(points: Tensor, weights: Tensor, features: Tensor) -> tuple[float, np.ndarray]:
    """Least cost and the dual of the weights, by HiGHS on the m n variables of Eq. 27-29."""
    m, n = len(points), len(features)
    rows = [np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))]
    actual = linprog(
        all_pairs(points, features).flatten().numpy(),
        A_eq=np.concatenate(rows),
        b_eq=np.concatenate([weights.numpy(), np.full(n, 1 / n)]),
    )
    assert actual.status == 0
    return float(actual.fun), actual.eqlin.marginals[:m]


WEIGHTS = [[0.25, 0.25, 0.25, 0.25], [0.61, 0.07, 0.3, 0.02], [0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]]


def test_distances_are_those_of_all_pairs() -> None:
    a, b = normal(2, 5, 7), normal(2, 6, 7, seed=1)
    torch.testing.assert_close(squared_distances(a, b), all_pairs(a, b))
    assert (squared_distances(a + 1e6, a + 1e6) >= 0).all()


# -- exact transport -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", WEIGHTS)
def test_plan_and_cost_are_those_of_the_linear_program(weights: list[float]) -> None:
    points, features, w = normal(4, 3) + 9, normal(7, 3, seed=1) + 9, exactly(weights)
    plan, _, cost = transport_plan(points, w, features)
    torch.testing.assert_close(plan.sum(0), w)
    torch.testing.assert_close(plan.sum(1), torch.full((7,), 1 / 7, dtype=torch.float64))
    assert (plan >= 0).all()
    best, _ = linear_program(points, w, features)
    assert cost == pytest.approx(best, rel=1e-9)
    assert float((plan * all_pairs(features, points)).sum()) == pytest.approx(best, rel=1e-9)


def test_dual_is_that_of_the_linear_program_centred() -> None:
    # With these weights no part of them is a multiple of 1/7, so the dual is unique up to a constant.
    w = exactly(WEIGHTS[1])
    points, features = normal(4, 3), normal(7, 3, seed=1)
    _, dual = linear_program(points, w, features)
    np.testing.assert_allclose(transport_plan(points, w, features)[1].numpy(), dual - dual.mean(), atol=1e-9)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("seed", range(3))
def test_dual_is_a_subgradient_also_at_massless_points(weights: list[float], seed: int) -> None:
    points, features, w = normal(4, 3, seed=seed), normal(9, 3, seed=seed + 50), exactly(weights)
    _, beta, cost = transport_plan(points, w, features)
    assert float(beta.mean()) == pytest.approx(0, abs=1e-12)
    others = torch.distributions.Dirichlet(torch.ones(4).double()).sample(torch.Size([50]))
    for other in [*others, *torch.eye(4).double()]:
        assert transport_cost(points, other, features) >= cost + float(beta @ (other - w)) - 1e-9


@pytest.mark.parametrize("j", [1, 3])
def test_dual_of_a_massless_point_is_the_slope_towards_it(j: int) -> None:
    w = exactly([0.57, 0.0, 0.43, 0.0])
    points, features = normal(4, 3), normal(7, 3, seed=1)
    _, beta, cost = transport_plan(points, w, features)
    towards = torch.nn.functional.one_hot(torch.tensor(j), 4).double() - w
    step = 1e-5
    slope = (transport_cost(points, w + step * towards, features) - cost) / step
    assert slope == pytest.approx(float(beta @ towards), abs=1e-6)


def test_a_far_offset_costs_no_digits() -> None:
    points, features = normal(4, 3), normal(30, 3, seed=1)
    w = exactly(WEIGHTS[1])
    near = transport_cost(points, w, features)
    assert transport_cost(points + 1e5, w, features + 1e5) == pytest.approx(near, rel=1e-9)


@pytest.mark.parametrize(
    ("weights", "features", "line"),
    [
        ([0.5, 0.4], normal(5, 3), "at least 0 and sum to 1"),
        ([1.5, -0.5], normal(5, 3), "at least 0 and sum to 1"),
        ([float("nan"), 1.0], normal(5, 3), "at least 0 and sum to 1"),
        ([0.5, 0.3, 0.2], normal(5, 3), "2 weights"),
        ([0.5, 0.5], normal(5, 4), "points have 3 dimensions, features 4"),
        ([0.5, 0.5], normal(5, 3) / 0, "finite matrix"),
        ([0.5, 0.5], normal(0, 3), "at least one row"),
    ],
)
def test_bad_transport_is_refused(weights: list[float], features: Tensor, line: str) -> None:
    with pytest.raises(DDBenchError, match=line):
        transport_plan(normal(2, 3), torch.tensor(weights), features)


@given(
    hnp.arrays(np.float64, (4, 2), elements=st.floats(-5, 5)),
    hnp.arrays(np.float64, (11, 2), elements=st.floats(-5, 5)),
    hnp.arrays(np.float64, 4, elements=st.floats(0, 1)),
)
@settings(deadline=None)
def test_no_weights_beat_the_nearest_shares(b: np.ndarray, z: np.ndarray, w: np.ndarray) -> None:
    points, features = torch.from_numpy(b), torch.from_numpy(z)
    shares = nearest_shares(points, features)
    best = transport_cost(points, shares, features)
    assert best == pytest.approx(float(all_pairs(points, features).amin(0).mean()), abs=1e-9)
    other = torch.from_numpy(w) + 1e-3
    assert best <= transport_cost(points, other / other.sum(), features) + 1e-9


def test_nearest_shares_of_a_batch() -> None:
    points, features = normal(3, 4, 2), normal(3, 9, 2, seed=1)
    alone = torch.stack([nearest_shares(b, z) for b, z in zip(points, features, strict=True)])
    assert torch.equal(nearest_shares(points, features), alone)
    assert nearest_shares(points.float(), features.float()).dtype == torch.float32
