"""The built-in methods on real digits: how many, of which class, which seed, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddbench.api.distiller import too_few_images
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[..., Pipeline]:
    registry = PluginRegistry()
    workspace = Workspace(registry, Cache(tmp_path), None)

    def make(method: str, *assignments: str, repeats: int = 1, **request: Any) -> Pipeline:
        options = {"recipes": ("smoke",), "device": "cpu", "precision": "fp32", "ipcs": (3,), **request}
        assignments = ("data.image_size=8", "data.stored_size=8", "teacher.arch=convnet-d1", *assignments)
        asked = Request(methods=(method,), datasets=("digits",), assignments=assignments, repeats=repeats, **options)
        return Pipeline(workspace, experiments(asked, registry)[-1])

    return make


@pytest.mark.parametrize("ipc", [1, 7])
def test_random_takes_ipc_different_images_of_each_class(pipeline: Callable[..., Pipeline], ipc: int) -> None:
    made = pipeline("random", ipcs=(ipc,), evaluator="hard")
    found = made.distilled
    assert found.indices is not None
    assert len(set(found.indices.tolist())) == 10 * ipc
    assert found.labels.tolist() == [label for label in range(10) for _ in range(ipc)]
    assert torch.equal(made.dataset.train.labels[found.indices], found.labels)
    torch.testing.assert_close(found.weights, torch.full((10 * ipc,), 1 / ipc))


def test_random_draws_by_seed_and_class_alone(pipeline: Callable[..., Pipeline]) -> None:
    first = pipeline("random").distilled
    assert first.indices is not None
    assert pipeline("random", "teacher.seed=4", evaluator="hard").distilled.digest == first.digest
    other, repeat = pipeline("random", seed=1).distilled, pipeline("random", repeats=2).distilled
    assert other.digest == repeat.digest != first.digest
    # A larger set begins with the smaller one's images: a curve over IPC is nested.
    larger = pipeline("random", ipcs=(5,)).distilled
    assert larger.indices is not None
    assert torch.equal(larger.indices.reshape(10, 5)[:, :3], first.indices.reshape(10, 3))


def test_random_can_take_a_whole_class_and_not_one_image_more(pipeline: Callable[..., Pipeline]) -> None:
    smallest = min(pipeline("random").dataset.info.train_counts)
    assert len(pipeline("random", ipcs=(smallest,)).distilled) == 10 * smallest
    with pytest.raises(DDBenchError, match=rf"--ipc {smallest + 1} is more than the {smallest} training images"):
        pipeline("random", ipcs=(smallest + 1,))


def test_full_is_every_training_image_without_an_ipc(pipeline: Callable[..., Pipeline]) -> None:
    made = pipeline("full", "teacher.epochs=1", "teacher.batch_size=256")
    assert made.experiment.ipc is None
    assert made.experiment.evaluator_name == "full-data"
    found = made.distilled
    assert found.indices is not None
    assert found.indices.tolist() == list(range(len(made.dataset.train)))
    assert torch.equal(found.labels, made.dataset.train.labels)
    record = made.run()
    assert record.teacher == {}
    assert record.feature_transport_cost is None
    assert record.metrics.student_steps == -(-len(found) // 256)
    assert record.metrics.regime == "hard"
    assert record.distilled_images == len(made.dataset.train)


def test_the_reason_to_refuse_names_the_class(pipeline: Callable[..., Pipeline]) -> None:
    info = pipeline("random").dataset.info
    assert too_few_images(info, None) is None
    assert too_few_images(info, min(info.train_counts)) is None
    smallest = info.class_names[info.train_counts.index(min(info.train_counts))]
    reason = too_few_images(info, min(info.train_counts) + 1)
    assert reason is not None
    assert f"'{smallest}'" in reason
