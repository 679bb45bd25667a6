"""Barycenter solvers: the laws they obey on made-up features, and their costs on the features of real images."""

import os
from collections.abc import Callable
from functools import partial
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError
from ddbench.core.seeds import generator
from ddbench.data.dataset import load_dataset
from ddbench.data.registry import ddbench_datasets, resolve_dataset
from ddbench.nn.build import build_network
from ddbench.nn.checkpoints import load_checkpoint
from ddbench.nn.taps import TappedNetwork
from ddbench.ot import lloyd as lloyd_module
from ddbench.ot.barycenters import Start, barycenter_paper, barycenter_released, project_simplex
from ddbench.ot.exact import nearest_shares, squared_distances, transport_cost, transport_plan
from ddbench.ot.lloyd import barycenter_lloyd
from ddbench.ot.points import Barycenter
from ddbench.storage.cache import Cache


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator("test", seed), dtype=torch.float64)


def exactly(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def clusters(n: int = 150, seed: int = 0) -> Tensor:
    """Features [n, 4] in five unequal clumps far from the origin: here weights matter."""
    centres = 4 * normal(5, 4, seed=seed) + 30
    label = torch.multinomial(torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]), n, True, generator=generator("label", seed))
    return centres[label] + normal(n, 4, seed=seed + 1000)


def cost_of(found: Barycenter, features: Tensor) -> float:
    return transport_cost(found.points, found.weights, features)


def all_pairs(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)


STARTS: list[Start] = ["kmeans++", "real", "normal"]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("seed", range(3))
def test_paper_solver_lowers_the_cost(start: Start, seed: int) -> None:
    for features in (clusters(seed=seed), normal(80, 16, seed=seed)):
        costs = [
            cost_of(barycenter_paper(features, 6, generator(seed), iterations=k, start=start), features)
            for k in (0, 1, 10)
        ]
        assert costs[0] > costs[1] > costs[2]


def test_paper_solver_learns_weights_that_pay() -> None:
    features = clusters(300)
    learnt = barycenter_paper(features, 5, generator(1))
    uniform = barycenter_paper(features, 5, generator(1), eta=0.0)
    assert torch.equal(uniform.weights, torch.full((5,), 0.2, dtype=torch.float64))
    assert float(learnt.weights.sum()) == pytest.approx(1)
    assert cost_of(learnt, features) < 0.8 * cost_of(uniform, features)


def test_one_round_of_the_paper_solver_is_algorithm_2() -> None:
    features = clusters(40)
    start = barycenter_paper(features, 4, generator(3), iterations=0)
    found = barycenter_paper(features, 4, generator(3), iterations=1, eta=0.7)
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    plan, beta, cost = transport_plan(start.points, uniform, features)
    gap = cost - transport_cost(start.points, nearest_shares(start.points, features), features)
    stepped = project_simplex(uniform - 0.7 * gap / beta.square().sum() * beta)
    torch.testing.assert_close(found.weights, stepped)
    # Divided by what the plan moves (here 1/4 each), not by the weights that were just updated.
    torch.testing.assert_close(found.points, 4 * plan.T @ features)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_paper_solver_is_blind_to_scale_and_offset(scale: float) -> None:
    features = clusters(100)
    found = barycenter_paper(features, 5, generator(4))
    scaled = barycenter_paper(scale * features + 7, 5, generator(4))
    torch.testing.assert_close(scaled.weights, found.weights, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close((scaled.points - 7) / scale, found.points, atol=1e-4, rtol=1e-6)


def test_released_solver_is_the_direct_call() -> None:
    features = clusters(60).float()
    start = torch.randn(5, 4, generator=generator("same"), dtype=torch.float64).numpy()
    expected = ot.lp.free_support_barycenter(
        [features.double().numpy()], [np.full(60, 1 / 60)], start, b=np.full(5, 0.2)
    )
    found = barycenter_released(features, 5, generator("same"))
    assert torch.equal(found.points, torch.from_numpy(expected).float())
    assert torch.equal(found.weights, torch.full((5,), 0.2))


@pytest.mark.parametrize("seed", range(4))
def test_lloyd_never_raises_the_cost_and_ends_where_a_step_changes_nothing(seed: int) -> None:
    features = clusters(seed=seed)
    found = [barycenter_lloyd([features], 8, [generator(seed)], iterations=k)[0] for k in range(40)]
    costs = [cost_of(barycenter, features) for barycenter in found]
    assert all(after <= before + 1e-12 for before, after in pairwise(costs))
    assert costs[-1] < costs[0]
    nearest = all_pairs(found[-1].points, features).argmin(0)
    means = torch.stack([features[nearest == j].mean(0) for j in range(8)])
    torch.testing.assert_close(found[-1].points, means)
    torch.testing.assert_close(found[-1].weights, torch.bincount(nearest, minlength=8).double() / len(features))


def test_lloyd_of_one_point_is_the_class_mean() -> None:
    features = [clusters(n, seed=n) for n in (1, 7, 30)]
    for found, z in zip(barycenter_lloyd(features, 1, [generator(k) for k in range(3)]), features, strict=True):
        torch.testing.assert_close(found.points, z.mean(0, keepdim=True))
        assert found.weights.tolist() == [1.0]
        assert cost_of(found, z) == pytest.approx(float(z.var(0, correction=0).sum()))


def test_lloyd_finds_clusters_that_lie_apart() -> None:
    centres = 100 * torch.eye(4, dtype=torch.float64)
    label = torch.tensor([0] * 8 + [1] * 5 + [2] * 2 + [3])
    features = centres[label] + normal(16, 4)
    found = barycenter_lloyd([features], 4, [generator("apart")])[0]
    order = found.points.argmax(1).argsort()
    torch.testing.assert_close(found.weights[order], torch.tensor([8, 5, 2, 1]) / 16.0, check_dtype=False)
    expected = torch.stack([features[label == k].mean(0) for k in range(4)])
    torch.testing.assert_close(found.points[order], expected)


def test_lloyd_is_deterministic_and_a_class_does_not_depend_on_the_others() -> None:
    features = [clusters(n, seed=n) for n in (40, 9, 123)]
    generators = [[generator("class", k) for k in range(3)] for _ in range(3)]
    together, again = (barycenter_lloyd(features, 6, g) for g in generators[:2])
    for k in range(3):
        assert torch.equal(together[k].points, again[k].points)
        assert torch.equal(together[k].weights, again[k].weights)
        alone = barycenter_lloyd([features[k]], 6, [generators[2][k]])[0]
        torch.testing.assert_close(alone.points, together[k].points)
        assert torch.equal(alone.weights, together[k].weights)


def test_lloyd_in_pieces_is_lloyd_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    features = [clusters(n, seed=n) for n in (40, 9, 23)]
    whole = barycenter_lloyd(features, 3, [generator(k) for k in range(3)])
    monkeypatch.setattr("ddbench.ot.lloyd._MAX_BATCH_ELEMENTS", 500)
    pieces = barycenter_lloyd(features, 3, [generator(k) for k in range(3)])
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a.points, b.points)


def test_lloyd_from_a_projection_ends_where_a_step_of_the_features_changes_nothing() -> None:
    centres, label = normal(6, 200, seed=1), torch.arange(90) % 6
    features = (centres[label] + 0.3 * normal(90, 200)).float()
    found = barycenter_lloyd([features, features[:50]], 6, [generator(0), generator(1)])
    for mine, z in zip(found, (features, features[:50]), strict=True):
        nearest = all_pairs(mine.points, z).argmin(0)
        means = torch.stack([z[nearest == j].mean(0) for j in range(6)])
        torch.testing.assert_close(mine.points, means, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.weights, torch.bincount(nearest, minlength=6) / len(z))
    # Clusters that lie as far apart as these are found in the projection already.
    expected = torch.stack([features[label == k].mean(0) for k in range(6)])
    assert float(all_pairs(expected, found[0].points).amin(1).max()) < 1e-6


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_lloyd_is_blind_to_scale(scale: float) -> None:
    features = clusters(100).float()
    found, scaled = (barycenter_lloyd([z], 5, [generator(4)])[0] for z in (features, scale * features))
    assert torch.equal(scaled.weights, found.weights)
    assert torch.equal(scaled.points, scale * found.points)


def test_lloyd_moves_an_emptied_point_to_the_farthest_feature() -> None:
    features = torch.tensor([[0.0], [1.0], [2.5], [50.0]]).double()
    # All belong to one point, which no seeds of k-means++ lead to: the two others are put where they help most.
    real, nearest = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.int64)
    points, nearest = lloyd_module._descend(features[None], real, nearest, 3, 300)
    assert sorted(points.flatten().tolist()) == pytest.approx([0.5, 2.5, 50.0])
    assert float((points[0, nearest[0]] - features).square().sum()) == pytest.approx(0.5)


@pytest.mark.parametrize("m", [3, 6])
def test_lloyd_with_fewer_distinct_features_than_points(m: int) -> None:
    features = torch.tensor([[0.0, 1.0]] * 3 + [[5.0, 5.0]] * 3).double()
    found = barycenter_lloyd([features, clusters(9)[:, :2]], m, [generator(0), generator(1)])[0]
    assert cost_of(found, features) == pytest.approx(0, abs=1e-12)
    assert all_pairs(found.points, features).amin(1).max() < 1e-12
    assert float(found.weights.sum()) == pytest.approx(1)


def test_as_many_points_as_features_are_the_features() -> None:
    features = normal(7, 3)
    for found in (
        barycenter_lloyd([features], 7, [generator(0)])[0],
        barycenter_paper(features, 7, generator(0)),
    ):
        assert cost_of(found, features) == pytest.approx(0, abs=1e-12)
        torch.testing.assert_close(found.weights, torch.full((7,), 1 / 7, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_barycenter_has_the_type_of_its_features(dtype: torch.dtype) -> None:
    features = clusters(30).to(dtype)
    for found in (
        barycenter_lloyd([features], 4, [generator(0)])[0],
        barycenter_paper(features, 4, generator(0)),
        barycenter_released(features, 4, generator(0)),
    ):
        assert found.points.dtype == found.weights.dtype == dtype
        assert found.points.shape == (4, 4)


def test_kmeans_seeds_are_drawn_by_squared_distance_and_the_better_of_two_is_kept() -> None:
    features = exactly([0.0, 1.0, 3.0, 7.0]).unsqueeze(1)
    squared = squared_distances(features, features)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for first in range(4):
        share = squared[first] / squared[first].sum()
        for a, b in permutations(set(range(4)) - {first}, 2):
            cost_a, cost_b = (float(torch.minimum(squared[first], squared[c]).sum()) for c in (a, b))
            kept = a if cost_a <= cost_b else b
            expected[first, kept] += 0.25 * share[a] * share[b] / (1 - share[a])
    draws = 4000
    found = torch.zeros(4, 4, dtype=torch.float64)
    for draw in range(draws):
        seeds = barycenter_paper(features, 2, generator("seeds", draw), iterations=0).points
        first, second = squared_distances(seeds, features).argmin(1)
        found[first, second] += 1 / draws
    # Four standard deviations of a frequency; what cannot be drawn never is.
    assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / draws).sqrt() + 1e-12).all()


def test_more_points_than_features_are_refused() -> None:
    line = "cannot place 6 barycenter points on a class of 5 features"
    with pytest.raises(DDBenchError, match=line):
        barycenter_lloyd([normal(9, 2), normal(5, 2)], 6, [generator(0), generator(1)])
    for start in STARTS[:2]:
        with pytest.raises(DDBenchError, match=line):
            barycenter_paper(normal(5, 2), 6, generator(0), start=start)
    with pytest.raises(DDBenchError, match="one generator a class"):
        barycenter_lloyd([normal(5, 2)], 2, [])
    with pytest.raises(DDBenchError, match="finite"):
        barycenter_lloyd([normal(5, 2) / 0], 2, [generator(0)])


# -- real features ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_features(tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    """ResNet-18 features at 64 pixels of two classes of ImageNette: tench and English springer."""
    root = Path(os.environ.get("DDBENCH_DATA") or "")
    weights = root / "teacher-resnet18-imagenette64.safetensors"
    if not os.environ.get("DDBENCH_DATA") or not weights.is_file() or not (root / "imagenette2").is_dir():
        pytest.skip("needs DDBENCH_DATA with imagenette2/ and teacher-resnet18-imagenette64.safetensors")
    folder = tmp_path_factory.mktemp("imagenette")
    for split in ("train", "val"):
        (folder / split).mkdir()
        for name in ("n01440764", "n02102040"):
            (folder / split / name).symlink_to(root / "imagenette2" / split / name)
    spec = resolve_dataset(f"imagefolder:{folder}", ddbench_datasets())
    cache = Cache(tmp_path_factory.mktemp("cache"))
    dataset = load_dataset(spec, DataConfig(image_size=64, stored_size=72), None, cache)
    network = build_network("resnet18", 10, 64)
    load_checkpoint(network, weights, 10)
    teacher = TappedNetwork(network)
    with torch.no_grad():
        return [
            torch.cat(
                [
                    teacher(dataset.evaluation_view("train", part), bn=False).features
                    for part in dataset.train.of_class(label).split(128)
                ]
            )
            for label in range(2)
        ]


@pytest.mark.real
def test_solvers_on_real_features(real_features: list[Tensor]) -> None:
    Solve = Callable[[Tensor, int, torch.Generator], Barycenter]

    def mean_cost(solve: Solve) -> float:
        found = [solve(z, 10, generator("real", k)) for k, z in enumerate(real_features)]
        return sum(map(cost_of, found, real_features)) / len(found)

    def draw(z: Tensor, m: int, g: torch.Generator) -> Barycenter:
        return Barycenter(z[torch.randperm(len(z), generator=g)[:m]], torch.full((m,), 1 / m))

    class_mean = mean_cost(lambda z, m, g: Barycenter(z.mean(0, keepdim=True), torch.ones(1)))
    released, paper = mean_cost(barycenter_released), mean_cost(barycenter_paper)
    lloyd = mean_cost(lambda z, m, g: barycenter_lloyd([z], m, [g])[0])
    assert lloyd < min(paper, released)
    assert max(paper, released) < class_mean < mean_cost(draw)
    # Over eight seeds: released 11.89 to 11.95, paper 11.91 to 12.01, lloyd 11.81 to 11.87.
    assert class_mean == pytest.approx(19.40, abs=0.05)
    assert released == pytest.approx(11.92, abs=0.08)
    assert paper == pytest.approx(11.95, abs=0.12)
    assert lloyd == pytest.approx(11.85, abs=0.08)
    # The path there: each solver falls from its own start, and most of the way in the first round.
    for solve in (barycenter_paper, barycenter_released):
        costs = [mean_cost(partial(solve, iterations=k)) for k in (1, 3, 10)]
        assert costs == sorted(costs, reverse=True)
        assert costs[0] < class_mean
