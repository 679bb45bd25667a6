"""Builds of artifacts: their own seconds, their source, and the precision of nested builds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddbench.api import Distiller, DistillTask, Unit, hookimpl
from ddbench.core.events import Event
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.registry.source import Source
from ddbench.storage.cache import Cache

REQUEST = Request(
    ("gray",),
    ("digits",),
    (1,),
    ("smoke",),
    image_size=8,
    arch="convnet-bn-d1",
    evaluators=("hard",),
    device="cpu",
    precision="fp32",
    assignments=("teacher.batch_size=256", "teacher.epochs=1", "evaluator.epochs=1"),
)


def gray(level: float, before: Callable[[DistillTask], object] = lambda task: None) -> type[Distiller]:
    class Gray(Distiller, frozen=True, extra="forbid"):
        """Gray images."""

        name = "gray"
        version = "1"

        def distill(self, task: DistillTask, unit: Unit) -> Tensor:
            before(task)
            size = task.info.image_size
            return torch.full((len(unit.slots), 3, size, size), level)

    return Gray


def pipeline(
    folder: Path,
    method: type[Distiller],
    distribution: str = "ddbench-gray",
    digest: str = "",
    events: list[Event] | None = None,
    **changes: Any,
) -> Pipeline:
    registry = PluginRegistry()
    hook = hookimpl(specname="ddbench_distillers")(lambda: [method])
    registry.register(SimpleNamespace(ddbench_distillers=hook), distribution)
    find = registry.source_of
    registry.source_of = lambda kind, name: (  # type: ignore[method-assign]
        Source(distribution, digest) if name == "gray" else find(kind, name)
    )
    workspace = Workspace(registry, Cache(folder), None)
    workspace.emit = (events if events is not None else []).append
    (experiment,) = experiments(replace(REQUEST, **changes), registry)
    return Pipeline(workspace, experiment)


def level(run: Pipeline) -> float:
    return float(run.artifact("distill").tensors["images"].float().mean() / 255)


def test_artifacts_of_another_plugin_with_the_same_name_and_version_are_not_used(tmp_path: Path) -> None:
    assert level(pipeline(tmp_path, gray(0.2), "ddbench-gray")) == pytest.approx(0.2)
    assert level(pipeline(tmp_path, gray(0.8), "ddbench-other")) == pytest.approx(0.8)
    assert level(pipeline(tmp_path, gray(0.4), "ddbench-other")) == pytest.approx(0.8)
    assert len(list(tmp_path.glob("distill/*.outdated-*"))) == 1


def test_an_edited_method_is_named_once_and_its_artifacts_are_used(tmp_path: Path) -> None:
    assert level(pipeline(tmp_path, gray(0.2), digest="before")) == pytest.approx(0.2)
    events: list[Event] = []
    run = pipeline(tmp_path, gray(0.8), digest="after", events=events)
    assert level(run) == pytest.approx(0.2)
    level(run)
    notes = [event.message for event in events if event.kind == "note"]
    assert len(notes) == 1
    assert "the code of ddbench-gray has changed under the same version" in notes[0]
    assert "--force distill" in notes[0]
    events.clear()
    level(pipeline(tmp_path, gray(0.2), digest="before", events=events))
    assert not [event for event in events if event.kind == "note"]


def test_artifacts_of_another_version_of_pytorch_are_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    level(pipeline(tmp_path, gray(0.2)))
    from ddbench.results import provenance

    current = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: {**current, "torch": "9.9"})
    events: list[Event] = []
    level(pipeline(tmp_path, gray(0.2), events=events))
    notes = [event.message for event in events if event.kind == "note"]
    assert len(notes) == 1
    assert f"built with PyTorch {current['torch']}, and this is 9.9" in notes[0]


def test_a_stage_has_its_own_seconds_without_those_of_stages_that_it_requests(tmp_path: Path) -> None:
    def slow(task: DistillTask) -> None:
        task.cached("slow", {}, lambda: time.sleep(0.5) or {"x": torch.zeros(1)})  # type: ignore[func-returns-value]

    run = pipeline(tmp_path, gray(0.2, slow))
    run.build("statistics")
    start = time.perf_counter()
    seconds = run.artifact("distill").meta["cost"]["seconds"]
    total = time.perf_counter() - start
    (intermediate,) = [artifact for artifact in run.builder._artifacts.values() if artifact.stage == "method"]
    own = intermediate.meta["cost"]["seconds"]
    assert own >= 0.5
    assert 0 < seconds <= total - own


def test_nested_statistics_under_autocast_are_float32(tmp_path: Path) -> None:
    def nested(task: DistillTask) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            task.statistics(0, layer=1)

    inside = pipeline(tmp_path / "inside", gray(0.2, nested))
    inside.artifact("distill")
    outside = pipeline(tmp_path / "outside", gray(0.2))
    expected = outside.statistics(0, layer=1)
    assert torch.equal(inside.statistics(0, layer=1).features, expected.features)


def test_threads_are_a_setting_that_the_artifact_tells_and_no_key_holds(tmp_path: Path) -> None:
    seen: list[int] = []
    method, before = gray(0.2, lambda task: seen.append(torch.get_num_threads())), torch.get_num_threads()
    usual = pipeline(tmp_path / "usual", method)
    more = pipeline(tmp_path / "more", method, assignments=(*REQUEST.assignments, f"runtime.threads={before + 1}"))
    messages = [run.artifact("distill").meta["device"]["threads"] for run in (usual, more)]
    assert seen == messages == [before, before + 1]
    assert torch.get_num_threads() == before
    assert usual.cache_key("distill") == more.cache_key("distill")
    assert "threads" not in usual.experiment.model_dump()["runtime"]
