"""A plugin that writes into shared objects is named, nothing of it is stored, and other cells keep their numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor

from ddbench.api import (
    Distiller,
    DistillTask,
    EvaluateTask,
    Evaluator,
    Metrics,
    Unit,
    hookimpl,
    units_of_whole_classes,
)
from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.record import build_record
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.shared_state import SharedStateError
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

Write = Callable[[Any], None]

WRITES: dict[str, tuple[Write, str]] = {
    "weights": (lambda task: task.teacher.network.classifier.weight.data.mul_(-1), "its parameters and buffers"),
    "parameter": (lambda task: task.teacher.network.classifier.bias.requires_grad_(True), "its requires_grad"),
    "hook": (lambda task: task.teacher.network.register_forward_hook(lambda *_: None), "its hooks"),
    "mode": (lambda task: task.teacher.network.train(), "its training mode"),
    "validation labels": (lambda task: task.dataset.val.labels.fill_(0), "the labels of the validation images"),
    "training labels": (lambda task: task.dataset.train.labels.numpy().fill(1), "the labels of the training images"),
    "mean": (lambda task: task.dataset.mean.add_(0.3), "the mean of the dataset"),
    "deviation": (lambda task: task.dataset.std.mul_(2), "the standard deviation of the dataset"),
    "another mean": (lambda task: setattr(task.dataset, "mean", task.dataset.mean + 0.3), "mean of the dataset"),
    "other labels": (
        lambda task: setattr(task.dataset.val, "labels", torch.zeros_like(task.dataset.val.labels)),
        "labels of the validation images",
    ),
    "normalise": (lambda task: setattr(task.dataset, "normalise", lambda x: x), "normalise of the dataset"),
    "eps": (lambda task: setattr(task.teacher.network.features[1], "eps", 10.0), "its modules"),
    "forward": (lambda task: setattr(task.teacher.network.classifier, "forward", torch.zeros_like), "its modules"),
}


class Writer(Distiller, frozen=True, extra="forbid"):
    """Writes into a shared object, then makes gray images."""

    name = "writer"
    version = "1"
    write: ClassVar[Write]
    cached: ClassVar[bool] = False

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        _ = task.teacher
        if self.cached:
            task.cached("written", {}, lambda: self._written(task))
        else:
            type(self).write(task)
        size = task.info.image_size
        return torch.full((len(unit.slots), 3, size, size), 0.5)

    def _written(self, task: DistillTask) -> dict[str, Tensor]:
        type(self).write(task)
        return {"x": torch.ones(1)}


class WritingProtocol(HardLabels, frozen=True, extra="forbid"):
    """Writes into a shared object, then evaluates by class labels."""

    name = "writing"
    needs_teacher = True
    write: ClassVar[Write]

    def evaluate(self, task: EvaluateTask) -> Metrics:
        type(self).write(task)
        return super().evaluate(task)


def workspace_in(folder: Path, distiller: type[Distiller], evaluator: type[Evaluator] = WritingProtocol) -> Workspace:
    registry = PluginRegistry()
    hooks = {"ddbench_distillers": lambda: [distiller], "ddbench_evaluators": lambda: [evaluator]}
    plugin = SimpleNamespace(**{name: hookimpl(specname=name)(hook) for name, hook in hooks.items()})
    registry.register(plugin, "ddbench-writer")
    return Workspace(registry, Cache(folder), None)


def cell(workspace: Workspace, method: str, evaluator: str) -> Pipeline:
    request = Request(
        (method,),
        ("digits",),
        (1,),
        ("smoke",),
        image_size=8,
        arch="convnet-bn-d1",
        evaluators=(evaluator,),
        device="cpu",
    )
    assignments = ("teacher.batch_size=256", "teacher.epochs=1", "evaluator.epochs=1")
    (experiment,) = experiments(
        Request(**{**request.__dict__, "assignments": assignments, "precision": "fp32"}), workspace.registry
    )
    return Pipeline(workspace, experiment)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, float | None, str]:
    """Top-1, transport cost and digest of `random` under fkd in a cache of its own."""
    Writer.write = lambda task: None
    pipeline = cell(workspace_in(tmp_path_factory.mktemp("sound"), Writer), "random", "fkd")
    pipeline.run()
    record = build_record(pipeline)
    return record.metrics.top1_last, record.feature_transport_cost, record.distilled_digest


def check_other_cells(workspace: Workspace, sound: tuple[float, float | None, str]) -> None:
    pipeline = cell(workspace, "random", "fkd")
    pipeline.run()
    record = build_record(pipeline)
    assert (record.metrics.top1_last, record.feature_transport_cost, record.distilled_digest) == sound


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True], ids=["distill", "cached"])
@pytest.mark.parametrize("name", WRITES)
def test_a_method_that_writes_into_a_shared_object(
    name: str, cached: bool, tmp_path: Path, sound: tuple[float, float | None, str]
) -> None:
    write, message = WRITES[name]
    writer = type("Writer", (Writer,), {"write": staticmethod(write), "cached": cached, "__doc__": "Writes."})
    workspace = workspace_in(tmp_path, writer)
    first = cell(workspace, "random", "fkd")  # it holds the same dataset
    pipeline = cell(workspace, "writer", "fkd")
    keys = dict(pipeline.key("distill"))
    with pytest.raises(SharedStateError) as caught:
        pipeline.run()
    assert f"method 'writer' of ddbench-writer changed {'the teacher (' if 'its' in message else ''}{message}" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("distill/*.safetensors"))
    assert not list(tmp_path.glob("method/*.safetensors"))
    check_other_cells(workspace, sound)
    first.run()
    assert build_record(first).metrics.top1_last == sound[0]
    assert dict(cell(workspace, "writer", "fkd").key("distill")) == keys


@pytest.mark.parametrize("name", WRITES)
def test_a_protocol_that_writes_into_a_shared_object(
    name: str, tmp_path: Path, sound: tuple[float, float | None, str]
) -> None:
    write, message = WRITES[name]
    protocol = type("P", (WritingProtocol,), {"write": staticmethod(write), "__doc__": "Writes."})
    workspace = workspace_in(tmp_path, Writer, protocol)
    with pytest.raises(SharedStateError, match="evaluator 'writing' of ddbench-writer changed") as caught:
        cell(workspace, "random", "writing").run()
    assert message in str(caught.value)
    assert not list(tmp_path.glob("evaluate/*.safetensors"))
    check_other_cells(workspace, sound)


@pytest.mark.parametrize("what", ["images", "labels", "weights"])
def test_a_protocol_that_writes_into_the_distilled_set(
    what: str, tmp_path: Path, sound: tuple[float, float | None, str]
) -> None:
    Writer.write = lambda task: None
    protocol = type(
        "P",
        (WritingProtocol,),
        {"write": staticmethod(lambda task: getattr(task, what).fill_(2)), "__doc__": "Writes."},
    )
    workspace = workspace_in(tmp_path, Writer, protocol)
    with pytest.raises(SharedStateError, match="the distilled images"):
        cell(workspace, "writer", "writing").run()
    check_other_cells(workspace, sound)
    images = cell(workspace, "writer", "fkd").distilled  # the same cached set as before
    assert (images.stored == 128).all() if images.stored is not None else False
    assert images.labels.tolist() == list(range(10))
    assert images.weights.tolist() == [1.0] * 10


def test_real_images_are_read_again_after_a_protocol_wrote_into_them(
    tmp_path: Path, sound: tuple[float, float | None, str]
) -> None:
    class Darkening(KnowledgeDistillation, frozen=True, extra="forbid"):
        """Evaluates, then blackens the images that it was given."""

        name = "writing"

        def evaluate(self, task: EvaluateTask) -> Metrics:
            metrics = super().evaluate(task)
            task.images.fill_(0)
            return metrics

    pipeline = cell(workspace_in(tmp_path, Writer, Darkening), "random", "writing")
    pipeline.run()
    assert build_record(pipeline).feature_transport_cost == sound[1]


class Grading(Distiller, frozen=True, extra="forbid"):
    """Makes images of one grey level, a sum of its settings and a stored number. It has one unit per image."""

    name = "grading"
    version = "1"
    needs_teacher = False
    levels: list[float] = Field(default=[0.25])
    writes: ClassVar[Callable[[list[float], Tensor], None]]

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        return units_of_whole_classes(num_classes, ipc, 1)

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        offset = task.cached("offset", {}, lambda: {"x": torch.full((1,), 0.25)})["x"]
        level = sum(self.levels) + float(offset)
        type(self).writes(self.levels, offset)
        return torch.full((len(unit.slots), 3, task.info.image_size, task.info.image_size), level)


def test_results_of_cached_are_copies_for_each_unit(tmp_path: Path) -> None:
    Grading.writes = lambda levels, offset: offset.add_(0.25)
    pipeline = cell(workspace_in(tmp_path, Grading), "grading", "hard")
    body = pipeline.distilled.stored
    assert body is not None
    assert body.unique().tolist() == [128]


def test_a_method_that_writes_into_its_settings(tmp_path: Path) -> None:
    """The key is that of the first settings, so other settings may not make a set of it."""
    Grading.writes = lambda levels, offset: levels.append(0.1)
    pipeline = cell(workspace_in(tmp_path, Grading), "grading", "hard")
    with pytest.raises(SharedStateError, match="method 'grading' of ddbench-writer changed the settings of the method"):
        pipeline.run()
    assert not list(tmp_path.glob("distill/*.safetensors"))
    assert getattr(pipeline.method, "levels") == [0.25]  # noqa: B009 (a field of the subclass)


def test_statistics_are_copies(tmp_path: Path) -> None:
    pipeline = cell(workspace_in(tmp_path, Writer), "wmdd", "hard")
    before = pipeline.statistics(0)
    pipeline.statistics(0).features.zero_()
    pipeline.statistics(0).bn_means[0].zero_()
    after = pipeline.statistics(0)
    assert torch.equal(before.features, after.features)
    assert torch.equal(before.bn_means[0], after.bn_means[0])
    assert float(after.features.abs().sum()) > 0
