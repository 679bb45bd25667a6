"""The Lloyd solver: monotone costs, fixed points, and degenerate features."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ddbench.core.seeds import generator
from ddbench.ot import lloyd as lloyd_module
from ddbench.ot.lloyd import barycenter_lloyd
from ddbench.ot.points import Barycenter


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator("test", seed), dtype=torch.float64)


Clusters = Callable[..., Tensor]
Cost = Callable[[Barycenter, Tensor], float]


def all_pairs(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)


@pytest.mark.parametrize("seed", range(4))
def test_lloyd_never_raises_the_cost_and_ends_where_a_step_changes_nothing(
    clusters: Clusters, cost_of: Cost, seed: int
) -> None:
    features = clusters(seed=seed)
    actual: list[Barycenter] = []
    while len(actual) < 2 or not torch.equal(actual[-1].points, actual[-2].points):
        assert len(actual) < 40
        actual += barycenter_lloyd([features], 8, [generator(seed)], iterations=len(actual))
    costs = [cost_of(barycenter, features) for barycenter in actual]
    assert all(after <= before + 1e-12 for before, after in pairwise(costs))
    assert costs[-1] < costs[0]
    nearest = all_pairs(actual[-1].points, features).argmin(0)
    means = torch.stack([features[nearest == j].mean(0) for j in range(8)])
    torch.testing.assert_close(actual[-1].points, means)
    torch.testing.assert_close(actual[-1].weights, torch.bincount(nearest, minlength=8).double() / len(features))


def test_lloyd_of_one_point_is_the_class_mean(clusters: Clusters, cost_of: Cost) -> None:
    features = [clusters(n, seed=n) for n in (1, 7, 30)]
    for actual, z in zip(barycenter_lloyd(features, 1, [generator(k) for k in range(3)]), features, strict=True):
        torch.testing.assert_close(actual.points, z.mean(0, keepdim=True))
        assert actual.weights.tolist() == [1.0]
        assert cost_of(actual, z) == pytest.approx(float(z.var(0, correction=0).sum()))


def test_lloyd_finds_clusters_that_lie_apart() -> None:
    centres = 100 * torch.eye(4, dtype=torch.float64)
    label = torch.tensor([0] * 8 + [1] * 5 + [2] * 2 + [3])
    features = centres[label] + normal(16, 4)
    actual = barycenter_lloyd([features], 4, [generator("apart")])[0]
    order = actual.points.argmax(1).argsort()
    torch.testing.assert_close(actual.weights[order], torch.tensor([8, 5, 2, 1]) / 16.0, check_dtype=False)
    expected = torch.stack([features[label == k].mean(0) for k in range(4)])
    torch.testing.assert_close(actual.points[order], expected)


def test_lloyd_is_deterministic_and_a_class_does_not_depend_on_the_others(clusters: Clusters) -> None:
    features = [clusters(n, seed=n) for n in (40, 9, 123)]
    generators = [[generator("class", k) for k in range(3)] for _ in range(3)]
    together, again = (barycenter_lloyd(features, 6, g) for g in generators[:2])
    for k in range(3):
        assert torch.equal(together[k].points, again[k].points)
        assert torch.equal(together[k].weights, again[k].weights)
        alone = barycenter_lloyd([features[k]], 6, [generators[2][k]])[0]
        torch.testing.assert_close(alone.points, together[k].points)
        assert torch.equal(alone.weights, together[k].weights)


def test_lloyd_in_pieces_is_lloyd_at_once(clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    features = [clusters(n, seed=n) for n in (40, 9, 23)]
    batched = barycenter_lloyd(features, 3, [generator(k) for k in range(3)])
    monkeypatch.setattr("ddbench.ot.lloyd._MAX_BATCH_ELEMENTS", 500)
    pieces = barycenter_lloyd(features, 3, [generator(k) for k in range(3)])
    for a, b in zip(batched, pieces, strict=True):
        torch.testing.assert_close(a.points, b.points)


def test_lloyd_from_a_projection_ends_where_a_step_of_the_features_changes_nothing() -> None:
    centres, label = normal(6, 200, seed=1), torch.arange(90) % 6
    features = (centres[label] + 0.3 * normal(90, 200)).float()
    actual = barycenter_lloyd([features, features[:50]], 6, [generator(0), generator(1)])
    for solution, z in zip(actual, (features, features[:50]), strict=True):
        nearest = all_pairs(solution.points, z).argmin(0)
        means = torch.stack([z[nearest == j].mean(0) for j in range(6)])
        torch.testing.assert_close(solution.points, means, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(solution.weights, torch.bincount(nearest, minlength=6) / len(z))
    # Clusters that lie as far apart as these are found in the projection already.
    expected = torch.stack([features[label == k].mean(0) for k in range(6)])
    assert float(all_pairs(expected, actual[0].points).amin(1).max()) < 1e-6


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_lloyd_is_blind_to_scale(clusters: Clusters, scale: float) -> None:
    features = clusters(100).float()
    actual, scaled = (barycenter_lloyd([z], 5, [generator(4)])[0] for z in (features, scale * features))
    assert torch.equal(scaled.weights, actual.weights)
    assert torch.equal(scaled.points, scale * actual.points)


def test_lloyd_moves_an_emptied_point_to_the_farthest_feature() -> None:
    features = torch.tensor([[0.0], [1.0], [2.5], [50.0]]).double()
    # All belong to one point, which no seeds of k-means++ lead to: the two others are put where they help most.
    real, nearest = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.int64)
    points, nearest = lloyd_module._descend(features[None], real, nearest, 3, 300)
    assert sorted(points.flatten().tolist()) == pytest.approx([0.5, 2.5, 50.0])
    assert float((points[0, nearest[0]] - features).square().sum()) == pytest.approx(0.5)


@pytest.mark.parametrize("m", [3, 6])
def test_lloyd_with_fewer_distinct_features_than_points(clusters: Clusters, cost_of: Cost, m: int) -> None:
    features = torch.tensor([[0.0, 1.0]] * 3 + [[5.0, 5.0]] * 3).double()
    actual = barycenter_lloyd([features, clusters(9)[:, :2]], m, [generator(0), generator(1)])[0]
    assert cost_of(actual, features) == pytest.approx(0, abs=1e-12)
    assert all_pairs(actual.points, features).amin(1).max() < 1e-12
    assert float(actual.weights.sum()) == pytest.approx(1)
