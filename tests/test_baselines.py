"""herding, k-center and kmeans: against brute force and exact optima, then on digits from the command line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from ddbench.core import seeds
from ddbench.methods.herding import Herding
from ddbench.methods.k_center import KCenter
from ddbench.methods.kmeans import KMeans
from ddbench.methods.selection import Selection
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

SELECTIONS = (Herding(), KCenter(), KMeans())
BY_NAME: dict[str, Selection] = {method.name: method for method in SELECTIONS}


def cloud(seed: int, n: int, d: int) -> Tensor:
    """n points in d dimensions about 0."""
    points = torch.randn(n, d, dtype=torch.float64, generator=Generator().manual_seed(seed))
    return points - points.mean(0)


def choose(method: Selection, features: Tensor, count: int, seed: int = 0) -> list[int]:
    chosen: list[int] = method.choose(features, count, Generator().manual_seed(seed)).tolist()
    return chosen


def distance_of_means(features: Tensor, rows: list[int]) -> float:
    return float((features[rows].mean(0) - features.mean(0)).norm())


def radius(features: Tensor, rows: list[int] | tuple[int, ...]) -> float:
    """The largest distance of a row to its nearest among `rows`."""
    return max(min(float((z - features[row]).norm()) for row in rows) for z in features)


clouds = st.builds(cloud, st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 4))


@given(features=clouds, data=st.data())
def test_herding_is_the_greedy_approach_to_the_mean(features: Tensor, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(features)))
    chosen = choose(Herding(), features, count)
    assert len(set(chosen)) == count
    for number in range(count):
        before = chosen[:number]
        left = [row for row in range(len(features)) if row not in before]
        least = min(distance_of_means(features, [*before, row]) for row in left)
        assert distance_of_means(features, chosen[: number + 1]) == pytest.approx(least, abs=1e-9)


@given(features=clouds, data=st.data())
def test_k_center_is_at_most_twice_the_optimum(features: Tensor, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, min(4, len(features))))
    chosen = choose(KCenter(), features, count)
    optimum = min(radius(features, rows) for rows in itertools.combinations(range(len(features)), count))
    assert radius(features, chosen) <= 2 * optimum + 1e-9
    # From the row nearest to the mean, each next is the farthest from those before.
    assert float(features[chosen[0]].norm()) == pytest.approx(float(features.norm(dim=1).min()))
    for number in range(1, count):
        before = chosen[:number]
        distances = [min(float((z - features[row]).norm()) for row in before) for z in features]
        assert distances[chosen[number]] == pytest.approx(max(distances))


@pytest.mark.parametrize("name", ["herding", "k-center"])
def test_a_larger_set_begins_with_the_smaller_one(name: str) -> None:
    features = cloud(3, 40, 6)
    whole = choose(BY_NAME[name], features, 40)
    assert sorted(whole) == list(range(40))
    assert choose(BY_NAME[name], features, 11, seed=1) == whole[:11]


def test_on_a_line() -> None:
    features = torch.tensor([[-10.0], [0.5], [-0.25], [9.0], [0.75]], dtype=torch.float64)
    assert float(features.sum()) == 0
    # Sums after each step: -0.25, 0.25, 1, -9, 0. Distances to what was chosen: 9.75 and 9.25, then 1.
    assert choose(Herding(), features, 5) == [2, 1, 4, 0, 3]
    assert choose(KCenter(), features, 4) == [2, 0, 3, 4]


@pytest.mark.parametrize("method", SELECTIONS, ids=lambda method: method.name)
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 99), data=st.data())
def test_equal_features_are_still_different_images(
    method: Selection, counts: list[int], seed: int, data: st.DataObject
) -> None:
    features = cloud(seed, len(counts), 3).repeat_interleave(torch.tensor(counts), 0)
    count = data.draw(st.integers(1, len(features)))
    chosen = choose(method, features - features.mean(0), count, seed)
    assert len(set(chosen)) == count
    assert set(chosen) <= set(range(len(features)))


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), clusters=st.integers(1, 5))
def test_kmeans_takes_the_medoid_of_each_cluster(seed: int, clusters: int) -> None:
    draw = Generator().manual_seed(seed)
    centres = 100 * torch.eye(5, dtype=torch.float64)[:clusters]
    labels = torch.arange(clusters).repeat(7)[torch.randperm(7 * clusters, generator=draw)]
    features = centres[labels] + torch.randn(7 * clusters, 5, dtype=torch.float64, generator=draw)
    nearest = set()
    for cluster in range(clusters):
        rows = (labels == cluster).nonzero().squeeze(1).tolist()
        mean = features[rows].mean(0)
        nearest.add(min(rows, key=lambda row: float((features[row] - mean).norm())))
    assert set(choose(KMeans(), features - features.mean(0), clusters, seed)) == nearest


def test_a_row_that_two_centroids_are_nearest_to_goes_to_the_nearer_one() -> None:
    # A wide cluster about 0, and three rows beside it whose middle one is the nearest row to both centroids.
    axes = 3 * torch.eye(6, dtype=torch.float64)
    wide = torch.cat([axes[1:5], -axes[1:5]])
    middle = torch.tensor([2.5, 0, 0, 0, 0, 0], dtype=torch.float64)
    beside = torch.stack([middle, 2 * middle + axes[5], 2 * middle - axes[5]])
    features = torch.cat([wide, beside])
    centroids = torch.stack([wide.mean(0), beside.mean(0)])
    assert torch.cdist(centroids, features).argmin(1).tolist() == [8, 8]
    chosen = set(choose(KMeans(), features - features.mean(0), 2))
    assert 8 in chosen
    assert (chosen - {8}) < set(range(8))


# -- on digits ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pipeline]:
    """Pipelines on 8-px digits with one teacher, trained once."""
    registry = PluginRegistry()
    workspace = Workspace(registry, Cache(tmp_path_factory.mktemp("cache")), None)
    small = ("data.image_size=8", "data.stored_size=8", "teacher.arch=convnet-d1", "teacher.batch_size=256")

    def make(method: str, ipc: int, **request: Any) -> Pipeline:
        options = {"recipes": ("smoke",), "device": "cpu", "precision": "fp32", **request}
        asked = Request(methods=(method,), datasets=("digits",), ipcs=(ipc,), assignments=small, **options)
        return Pipeline(workspace, experiments(asked, registry)[-1])

    return make


def test_the_set_is_what_the_features_of_each_class_say(make: Callable[..., Pipeline]) -> None:
    for method in SELECTIONS:
        pipeline = make(method.name, 4)
        found = pipeline.distilled
        assert found.indices is not None
        assert found.labels.tolist() == [label for label in range(10) for _ in range(4)]
        torch.testing.assert_close(found.weights, torch.full((40,), 1 / 4))
        assert len(set(found.indices.tolist())) == 40
        for label, indices in enumerate(found.indices.reshape(10, 4)):
            features = pipeline.statistics(label).features.double()
            rows = method.choose(features - features.mean(0), 4, seeds.generator("distill", 0, method.name, label))
            assert torch.equal(indices, pipeline.dataset.train.of_class(label)[rows])


def test_only_kmeans_depends_on_the_seed(make: Callable[..., Pipeline]) -> None:
    for name in BY_NAME:
        first, other = make(name, 4).distilled.digest, make(name, 4, seed=1).distilled.digest
        assert (first == other) == (name != "kmeans")


def test_the_command_line_makes_and_judges_all_three(shell: Any) -> None:
    grid = [argument for name in BY_NAME for argument in ("--method", name)]
    outcome = shell.run(*grid, "--dataset", "digits", "--ipc", "3")
    records = [json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json")]
    assert sorted(record["method"] for record in records) == sorted(BY_NAME)
    for record in records:
        assert record["distilled_images"] == 30
        assert record["method"] in outcome.out
    costs = {record["method"]: record["feature_transport_cost"] for record in records}
    # k-means is after this cost, k-center after the farthest image: it takes outliers.
    assert costs["kmeans"] < costs["k-center"]


def test_too_large_an_ipc_is_one_line_before_anything_is_trained(shell: Any) -> None:
    for name in BY_NAME:
        outcome = shell("run", "--method", name, "--dataset", "digits", "--ipc", "500", "--recipe", "smoke")
        assert outcome.code != 0
        assert len(outcome.errors) == 1
        assert "--ipc 500 is more than the" in outcome.err
    assert not Path(shell.cache / "teacher").exists()
