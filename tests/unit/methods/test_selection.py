"""Methods that select real images by their features: properties that all of them have, and runs on digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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

if TYPE_CHECKING:
    from tests.unit.methods.conftest import Choose, Cloud

SELECTIONS = (Herding(), KCenter(), KMeans())


BY_NAME: dict[str, Selection] = {method.name: method for method in SELECTIONS}


@pytest.mark.parametrize("name", ["herding", "k-center"])
def test_a_larger_set_begins_with_the_smaller_one(cloud: Cloud, choose: Choose, name: str) -> None:
    features = cloud(3, 40, 6)
    order = choose(BY_NAME[name], features, 40)
    assert sorted(order) == list(range(40))
    assert choose(BY_NAME[name], features, 11, seed=1) == order[:11]


@pytest.mark.parametrize("method", SELECTIONS, ids=lambda method: method.name)
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 99), data=st.data())
def test_equal_features_are_still_different_images(
    cloud: Cloud, choose: Choose, method: Selection, counts: list[int], seed: int, data: st.DataObject
) -> None:
    features = cloud(seed, len(counts), 3).repeat_interleave(torch.tensor(counts), 0)
    count = data.draw(st.integers(1, len(features)))
    chosen = choose(method, features - features.mean(0), count, seed)
    assert len(set(chosen)) == count
    assert set(chosen) <= set(range(len(features)))


# -- on digits ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pipeline]:
    """Pipelines on 8-px digits with one teacher, trained once."""
    registry = PluginRegistry()
    workspace = Workspace(registry, Cache(tmp_path_factory.mktemp("cache")), None)
    small = ("data.image_size=8", "data.stored_size=8", "teacher.arch=convnet-d1", "teacher.batch_size=256")

    def make(method: str, ipc: int, **request: Any) -> Pipeline:
        options = {"recipes": ("smoke",), "device": "cpu", "precision": "fp32", **request}
        grid_of_one = Request(methods=(method,), datasets=("digits",), ipcs=(ipc,), assignments=small, **options)
        return Pipeline(workspace, experiments(grid_of_one, registry)[-1])

    return make


def test_the_set_is_what_the_features_of_each_class_say(make: Callable[..., Pipeline]) -> None:
    for method in SELECTIONS:
        pipeline = make(method.name, 4)
        actual = pipeline.distilled
        assert actual.indices is not None
        assert actual.labels.tolist() == [label for label in range(10) for _ in range(4)]
        torch.testing.assert_close(actual.weights, torch.full((40,), 1 / 4))
        assert len(set(actual.indices.tolist())) == 40
        for label, indices in enumerate(actual.indices.reshape(10, 4)):
            features = pipeline.statistics(label).features.double()
            rows = method.choose(features - features.mean(0), 4, seeds.generator("distill", 0, method.name, label))
            assert torch.equal(indices, pipeline.dataset.train.of_class(label)[rows])


def test_only_kmeans_depends_on_the_seed(make: Callable[..., Pipeline]) -> None:
    for name in BY_NAME:
        first, other = make(name, 4).distilled.digest, make(name, 4, seed=1).distilled.digest
        assert (first == other) == (name != "kmeans")


@pytest.mark.slow
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
