"""Sliced transport: costs against POT and against plans along each direction; the laws that barycenters obey."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddbench.core import versions
from ddbench.core.errors import DDBenchError
from ddbench.core.seeds import generator
from ddbench.ot.barycenters import Start, barycenter_paper
from ddbench.ot.exact import transport_cost
from ddbench.ot.sliced import barycenter_sliced, random_directions, sliced_cost


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator("test", seed), dtype=torch.float64)


def simplex(count: int, seed: int = 0) -> Tensor:
    weights = torch.rand(count, generator=generator("weights", seed), dtype=torch.float64)
    return weights / weights.sum()


def uniform(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=torch.float64)


def directions(d: int, count: int, seed: int = 0) -> Tensor:
    return random_directions(d, count, generator("directions", seed))


def test_directions_are_uniform_on_the_sphere_and_orthogonal_in_groups() -> None:
    actual = directions(5, 12)
    assert actual.shape == (12, 5)
    for group in actual.split(5):
        torch.testing.assert_close(group @ group.T, torch.eye(len(group), dtype=torch.float64))
    assert float((actual[:5] @ actual[5:10].T).abs().min()) > 0
    # Along any axis a uniform direction of R^3 is uniform on [-1, 1], whatever its place in a group.
    many = torch.stack([directions(3, 3, seed) for seed in range(2000)])
    for place in range(3):
        for axis in range(3):
            levels = many[:, place, axis].sort().values
            expected = torch.linspace(-1, 1, 2000, dtype=torch.float64)
            assert float((levels - expected).abs().max()) < 2 * 1.63 / 2000**0.5  # Kolmogorov, 1 %


def test_the_cost_is_pots_with_the_same_directions() -> None:
    points, z = normal(6, 4), normal(31, 4, seed=1) * 2 + 50
    w, v, theta = simplex(6), simplex(31, 1), directions(4, 11)
    for feature_weights in (None, v):
        expected = ot.sliced_wasserstein_distance(
            points.numpy(),
            z.numpy(),
            w.numpy(),
            None if feature_weights is None else v.numpy(),
            projections=theta.T.numpy(),
        )
        assert sliced_cost(points, w, z, theta, feature_weights) == pytest.approx(float(expected) ** 2, rel=1e-10)


@settings(max_examples=40)
@given(m=st.integers(1, 7), n=st.integers(1, 12), d=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_the_cost_is_the_mean_of_exact_plans_along_each_direction(m: int, n: int, d: int, seed: int) -> None:
    points, z = normal(m, d, seed=seed), normal(n, d, seed=seed + 1)
    w, v, theta = simplex(m, seed), simplex(n, seed + 1), directions(d, 3, seed)
    w[0] *= seed % 3  # perhaps without mass
    w = w / w.sum() if float(w.sum()) else uniform(m)
    expected = 0.0
    for direction in theta:
        costs = ((points @ direction).unsqueeze(1) - (z @ direction).unsqueeze(0)).square()
        expected += float(ot.emd2(w.numpy(), v.numpy(), costs.numpy())) / 3
    assert sliced_cost(points, w, z, theta, v) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_cost_stays_below_the_exact_one_over_d() -> None:
    points, z = normal(4, 6), normal(40, 6, seed=1) + 1
    w = simplex(4)
    # Along an orthonormal basis the costs of the exact plan sum to its cost, and no plan costs less there.
    assert 0 < sliced_cost(points, w, z, directions(6, 6)) < transport_cost(points, w, z) / 6


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.5, -0.5]])
def test_weights_off_the_simplex_are_refused(weights: list[float]) -> None:
    with pytest.raises(DDBenchError, match="at least 0 and sum to 1"):
        sliced_cost(normal(2, 3), torch.tensor(weights), normal(4, 3), directions(3, 3))


# -- barycenters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projections", [4, 12, 30])
def test_one_point_is_the_mean(projections: int) -> None:
    z = normal(25, 12) + 3
    actual = barycenter_sliced(z, 1, generator("one"), projections, iterations=60)
    tolerance = 1e-12 if projections == 12 else 0.05  # a basis reaches it in one round
    torch.testing.assert_close(actual.points, z.mean(0, keepdim=True), atol=tolerance, rtol=0)
    assert actual.weights.tolist() == [1.0]


def test_one_round_in_one_dimension_is_the_mean_of_each_block() -> None:
    z = torch.tensor([[5.0], [0.0], [1.0], [9.0], [2.0]], dtype=torch.float64)
    actual = barycenter_sliced(z, 2, generator("blocks"), projections=1, iterations=1)
    # Halves of five sorted values: 0, 1 and half of 2; half of 2, 5 and 9.
    assert sorted(actual.points.flatten().tolist()) == pytest.approx([2 / 2.5, 15 / 2.5])


def test_a_round_is_the_fixed_point_step_on_its_directions() -> None:
    z, m, d = normal(20, 5), 4, 5
    actual = barycenter_sliced(z, m, generator("step"), projections=7, iterations=2)
    draw = generator("step")
    points = barycenter_paper(z, m, draw, iterations=0).points
    for number in (1, 2):
        theta = random_directions(d, 7, draw)
        moved = torch.zeros_like(points)
        for direction in theta:
            blocks = (z @ direction).sort().values.reshape(m, -1).mean(1)
            for block, j in zip(blocks, (points @ direction).argsort(), strict=True):
                moved[j] += d * (block - points[j] @ direction) * direction / len(theta)
        points = points + moved / number**0.5
    torch.testing.assert_close(actual.points, points)
    torch.testing.assert_close(actual.weights, uniform(m))


STARTS: list[Start] = ["kmeans++", "real", "normal"]


@pytest.mark.parametrize("start", STARTS)
def test_rounds_lower_the_sliced_cost_and_the_start_hardly_matters(start: Start) -> None:
    z, theta = normal(60, 3) * torch.tensor([3.0, 1.0, 0.3]), directions(3, 600, 5)
    costs = [
        sliced_cost(actual.points, actual.weights, z, theta)
        for actual in (barycenter_sliced(z, 5, generator("rounds"), 3, k, start) for k in (0, 5, 300))
    ]
    assert costs[0] > costs[1] > costs[2]
    # 0.278 to 0.285 over ten seeds of each start; five real rows cost 0.5 and more (20 draws).
    assert costs[2] == pytest.approx(0.281, abs=0.006)


def test_the_barycenter_of_a_translated_set_is_translated() -> None:
    z, shift = normal(40, 6), torch.linspace(-50, 80, 6, dtype=torch.float64)
    actual, moved = (barycenter_sliced(values, 5, generator("shift"), 8, 20).points for values in (z, z + shift))
    torch.testing.assert_close(moved, actual + shift)


@pytest.mark.parametrize("start", STARTS)
def test_as_many_points_as_features_are_the_features(start: Start) -> None:
    z = normal(7, 3)
    actual = barycenter_sliced(z, 7, generator("all"), 3, 2500, start)
    assert transport_cost(actual.points, actual.weights, z) == pytest.approx(0, abs=1e-6)
    assert sliced_cost(actual.points, actual.weights, z, directions(3, 30)) == pytest.approx(0, abs=1e-6)


def test_points_and_weights_are_of_the_features_type_and_the_same_for_the_same_draws() -> None:
    z = normal(30, 4).float()
    actual, again = (barycenter_sliced(z, 4, generator("same"), 6, 5) for _ in range(2))
    assert actual.points.dtype == actual.weights.dtype == torch.float32
    assert torch.equal(actual.points, again.points)
    assert not torch.equal(actual.points, barycenter_sliced(z, 4, generator("other"), 6, 5).points)


def test_what_cannot_be_placed_is_refused() -> None:
    with pytest.raises(DDBenchError, match="cannot place 6 barycenter points on a class of 5 features"):
        barycenter_sliced(normal(5, 2), 6, generator(0))
    with pytest.raises(DDBenchError, match="finite"):
        barycenter_sliced(normal(5, 2) / 0, 2, generator(0))


def test_the_numbers_are_those_that_the_version_of_transport_stands_for() -> None:
    z = torch.from_numpy(np.sin(np.arange(240.0).reshape(40, 6) ** 1.5))
    actual = barycenter_sliced(z, 4, generator("pinned"), 9, 20)
    assert (versions.TRANSPORT, transport_cost(actual.points, actual.weights, z)) == (
        "1",
        pytest.approx(2.42204, rel=1e-4),
    )
