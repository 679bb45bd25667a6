"""Barycenter solvers: projection, single steps, properties on made-up features, and costs on real features."""

import os
from collections.abc import Callable
from functools import partial
from itertools import permutations
from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import brentq
from torch import Tensor

from ddbench.config.schema import DataConfig
from ddbench.core.errors import DDBenchError
from ddbench.core.seeds import generator
from ddbench.data.dataset import load_dataset
from ddbench.data.registry import ddbench_datasets, resolve_dataset
from ddbench.nn.build import build_network
from ddbench.nn.checkpoint_files import read_checkpoint
from ddbench.nn.checkpoints import load_checkpoint
from ddbench.nn.taps import TappedNetwork
from ddbench.ot.barycenters import Start, barycenter_paper, barycenter_released, newton_step, project_simplex
from ddbench.ot.exact import nearest_shares, squared_distances, transport_cost, transport_plan
from ddbench.ot.lloyd import barycenter_lloyd, kmeans_plus_plus
from ddbench.ot.points import Barycenter
from ddbench.storage.cache import Cache


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator("test", seed), dtype=torch.float64)


def exactly(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


Clusters = Callable[..., Tensor]
Cost = Callable[[Barycenter, Tensor], float]


STARTS: list[Start] = ["kmeans++", "real", "normal"]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("seed", range(3))
def test_paper_solver_lowers_the_cost(clusters: Clusters, cost_of: Cost, start: Start, seed: int) -> None:
    for features in (clusters(seed=seed), normal(80, 16, seed=seed)):
        costs = [
            cost_of(barycenter_paper(features, 6, generator(seed), iterations=k, start=start), features)
            for k in (0, 1, 10)
        ]
        assert costs[0] > costs[1] > costs[2]


def test_paper_solver_learns_weights_that_pay(clusters: Clusters, cost_of: Cost) -> None:
    features = clusters(300)
    learnt = barycenter_paper(features, 5, generator(1))
    uniform = barycenter_paper(features, 5, generator(1), eta=0.0)
    assert torch.equal(uniform.weights, torch.full((5,), 0.2, dtype=torch.float64))
    assert float(learnt.weights.sum()) == pytest.approx(1)
    assert cost_of(learnt, features) < 0.8 * cost_of(uniform, features)


def test_one_round_of_the_paper_solver_is_algorithm_2(clusters: Clusters) -> None:
    features = clusters(40)
    start = barycenter_paper(features, 4, generator(3), iterations=0)
    actual = barycenter_paper(features, 4, generator(3), iterations=1, eta=0.7)
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    plan, beta, cost = transport_plan(start.points, uniform, features)
    gap = cost - transport_cost(start.points, nearest_shares(start.points, features), features)
    stepped = project_simplex(uniform - 0.7 * gap / beta.square().sum() * beta)
    torch.testing.assert_close(actual.weights, stepped)
    # Divided by what the plan moves (here 1/4 each), not by the weights that were just updated.
    torch.testing.assert_close(actual.points, 4 * plan.T @ features)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_paper_solver_is_blind_to_scale_and_offset(clusters: Clusters, scale: float) -> None:
    features = clusters(100)
    actual = barycenter_paper(features, 5, generator(4))
    scaled = barycenter_paper(scale * features + 7, 5, generator(4))
    torch.testing.assert_close(scaled.weights, actual.weights, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close((scaled.points - 7) / scale, actual.points, atol=1e-4, rtol=1e-6)


def test_released_solver_is_the_direct_call(clusters: Clusters) -> None:
    features = clusters(60).float()
    start = torch.randn(5, 4, generator=generator("same"), dtype=torch.float64).numpy()
    expected = ot.lp.free_support_barycenter(
        [features.double().numpy()], [np.full(60, 1 / 60)], start, b=np.full(5, 0.2)
    )
    actual = barycenter_released(features, 5, generator("same"))
    assert torch.equal(actual.points, torch.from_numpy(expected).float())
    assert torch.equal(actual.weights, torch.full((5,), 0.2))


def test_as_many_points_as_features_are_the_features(cost_of: Cost) -> None:
    features = normal(7, 3)
    for actual in (
        barycenter_lloyd([features], 7, [generator(0)])[0],
        barycenter_paper(features, 7, generator(0)),
    ):
        assert cost_of(actual, features) == pytest.approx(0, abs=1e-12)
        torch.testing.assert_close(actual.weights, torch.full((7,), 1 / 7, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_barycenter_has_the_type_of_its_features(clusters: Clusters, dtype: torch.dtype) -> None:
    features = clusters(30).to(dtype)
    for actual in (
        barycenter_lloyd([features], 4, [generator(0)])[0],
        barycenter_paper(features, 4, generator(0)),
        barycenter_released(features, 4, generator(0)),
    ):
        assert actual.points.dtype == actual.weights.dtype == dtype
        assert actual.points.shape == (4, 4)


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
    times = [torch.empty(4, 2).double().exponential_(generator=generator("seeds", draw)).T for draw in range(draws)]
    z = (features - features.mean(0)).expand(draws, 4, 1)
    seeds = kmeans_plus_plus(z, torch.ones(draws, 4, dtype=torch.bool), torch.stack(times, 1))
    for draw in range(100):
        assert torch.equal(
            barycenter_paper(features, 2, generator("seeds", draw), iterations=0).points, features[seeds[draw]]
        )
    actual = torch.bincount(4 * seeds[:, 0] + seeds[:, 1], minlength=16).view(4, 4) / draws
    # Four standard deviations of a frequency; what cannot be drawn never is.
    assert ((actual - expected).abs() <= 4 * (expected * (1 - expected) / draws).sqrt() + 1e-12).all()


def test_more_points_than_features_are_refused() -> None:
    line = "cannot place 6 barycenter points on a class of 5 features"
    with pytest.raises(DDBenchError, match=line):
        barycenter_lloyd([normal(9, 2), normal(5, 2)], 6, [generator(0), generator(1)])
    for start in STARTS[:2]:
        with pytest.raises(DDBenchError, match=line):
            barycenter_paper(normal(5, 2), 6, generator(0), start=start)
    with pytest.raises(DDBenchError, match="one generator per class"):
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
    load_checkpoint(network, read_checkpoint(weights))
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


@pytest.mark.slow
@pytest.mark.real
def test_solvers_on_real_features(cost_of: Cost, real_features: list[Tensor]) -> None:
    Solve = Callable[[Tensor, int, torch.Generator], Barycenter]

    def mean_cost(solve: Solve) -> float:
        actual = [solve(z, 10, generator("real", k)) for k, z in enumerate(real_features)]
        return sum(map(cost_of, actual, real_features)) / len(actual)

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


def all_pairs(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)


WEIGHTS = [[0.25, 0.25, 0.25, 0.25], [0.61, 0.07, 0.3, 0.02], [0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]]


# -- projection ------------------------------------------------------------------------------------------------

VECTORS = hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(-1e6, 1e6))


@given(VECTORS)
@settings(deadline=None)
def test_projection_is_the_thresholded_vector_that_bisection_finds(v: np.ndarray) -> None:
    threshold = brentq(lambda t: np.maximum(v - t, 0).sum() - 1, v.min() - 1, v.max(), xtol=1e-14, rtol=1e-14)
    actual = project_simplex(torch.from_numpy(v)).numpy()
    np.testing.assert_allclose(actual, np.maximum(v - threshold, 0), atol=1e-8)
    assert (actual >= 0).all()
    assert abs(actual.sum() - 1) < 1e-12


@given(VECTORS, st.floats(-1e6, 1e6))
@settings(deadline=None)
def test_projection_is_nearest_idempotent_and_blind_to_shifts(v: np.ndarray, shift: float) -> None:
    vector = torch.from_numpy(v)
    actual = project_simplex(vector)
    torch.testing.assert_close(project_simplex(actual), actual, atol=1e-12, rtol=0)
    torch.testing.assert_close(project_simplex(vector + shift), actual, atol=1e-8, rtol=0)
    # Nearest in a convex set: the way to any vertex leads away, i.e. <v - p, e_j - p> <= 0 for every j.
    outward = vector - actual
    assert float((outward - outward @ actual).max()) <= 1e-9 * max(1.0, float(outward.abs().max()))


def test_projection_of_a_batch_is_that_of_its_rows() -> None:
    batch = 2 * normal(3, 4, 6)
    rows = torch.stack([project_simplex(row) for row in batch.reshape(-1, 6)])
    assert torch.equal(project_simplex(batch).reshape(-1, 6), rows)


# -- Newton step -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", WEIGHTS)
def test_newton_step_solves_the_hessian_of_the_objective(weights: list[float]) -> None:
    points, features = normal(4, 3), normal(7, 3, seed=1)
    plan = transport_plan(points, exactly(weights), features)[0]

    def objective(flat: Tensor) -> Tensor:
        return (plan * all_pairs(features, flat.reshape(4, 3))).sum()

    flat = points.flatten().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(flat), flat)
    hessian = torch.autograd.functional.hessian(objective, flat.detach())
    assert isinstance(hessian, Tensor)
    # The pseudo-inverse is the inverse on points with mass and leaves the others, where both vanish, alone.
    expected = points.flatten() - torch.linalg.pinv(hessian, hermitian=True) @ gradient
    actual = newton_step(points, plan, features)
    torch.testing.assert_close(actual.flatten(), expected, atol=1e-10, rtol=0)
    massless = torch.tensor(weights) == 0
    assert torch.equal(actual[massless], points[massless])
