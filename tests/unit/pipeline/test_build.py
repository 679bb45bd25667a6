"""Builds of artifacts: their own seconds, their source, and the precision of nested builds."""

from __future__ import annotations

import sys
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
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.registry.source import Source
from ddbench.storage.artifacts import write_tensors
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the data, the teacher and the statistics of REQUEST."""
    folder = tmp_path_factory.mktemp("shared")
    pipeline(folder, gray(0.2)).build("statistics")
    return folder


def link(shared: Path, folder: Path) -> Path:
    """Makes a cache that has these stages already."""
    for stage in ("data", "teacher", "statistics"):
        folder.mkdir(exist_ok=True)
        (folder / stage).symlink_to(shared / stage)
    return folder


@pytest.fixture(autouse=True)
def _cache_in_tmp_path(shared: Path, tmp_path: Path) -> None:
    link(shared, tmp_path)


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


def notes(events: list[Event]) -> list[str]:
    return [event.message for event in events if event.kind == "note"]


def built(events: list[Event]) -> list[str]:
    return [event.stage for event in events if event.kind == "started"]


def test_artifacts_of_another_plugin_with_the_same_name_and_version_are_not_used(tmp_path: Path) -> None:
    assert level(pipeline(tmp_path, gray(0.2), "ddbench-gray")) == pytest.approx(0.2)
    events: list[Event] = []
    assert level(pipeline(tmp_path, gray(0.8), "ddbench-other", events=events)) == pytest.approx(0.8)
    (line,) = notes(events)
    assert line.startswith("method 'gray' of ddbench-other, version 1: its cached artifacts were made by ddbench-gray")
    assert level(pipeline(tmp_path, gray(0.4), "ddbench-other")) == pytest.approx(0.8)
    assert len(list(tmp_path.glob("distill/*.outdated-*"))) == 1


def test_what_an_edited_method_made_is_made_again_and_one_line_says_so(tmp_path: Path) -> None:
    def method(value: float) -> type[Distiller]:
        def request(task: DistillTask) -> None:
            seen.append(float(task.cached("value", {}, lambda: {"x": torch.tensor(value)})["x"]))

        return gray(value, request)

    seen: list[float] = []
    assert level(pipeline(tmp_path, method(0.25), digest="before")) == pytest.approx(0.25, abs=0.01)
    events: list[Event] = []
    run = pipeline(tmp_path, method(0.75), digest="after", events=events)
    assert ("distill", 0) in run.missing()
    assert level(run) == pytest.approx(0.75, abs=0.01)
    assert seen == [0.25, 0.75]
    assert notes(events) == [
        "method 'gray' of ddbench-gray, version 1: its source has changed since its cached artifacts were made, but "
        "not its version; they are computed again (to keep both, raise `version`)"
    ]
    assert events.index(next(event for event in events if event.kind == "note")) == 0
    assert {path.parent.name for path in tmp_path.rglob("*.outdated-*")} == {"distill", "method"}
    events.clear()
    assert level(pipeline(tmp_path, method(0.5), digest="after", events=events)) == pytest.approx(0.75, abs=0.01)
    assert [notes(events), built(events)] == [[], []]


@pytest.mark.parametrize(("digest", "resumes"), [("before", True), ("after", False)])
def test_a_checkpoint_of_other_code_is_not_continued(tmp_path: Path, digest: str, resumes: bool) -> None:
    def interrupted(task: DistillTask) -> None:
        task.checkpoint.save({"x": torch.zeros(1)}, {"step": 3})
        raise DDBenchError("interrupted")

    loaded: list[object] = []
    with pytest.raises(DDBenchError, match="interrupted"):
        level(pipeline(tmp_path, gray(0.2, interrupted), digest="before"))
    events: list[Event] = []
    run = pipeline(
        tmp_path, gray(0.8, lambda task: loaded.append(task.checkpoint.load())), digest=digest, events=events
    )
    assert level(run) == pytest.approx(0.8)
    (state,) = loaded
    assert (state is not None) == resumes == (not notes(events))
    if isinstance(state, tuple):
        assert state[1] == {"step": 3}
    assert [event.kind for event in events if event.stage == "distill" and event.kind != "finished"] == [
        "resumed" if resumes else "started"
    ]


@pytest.mark.parametrize(("stored", "current"), [("", "after"), ("before", "")])
def test_code_without_a_digest_is_not_compared(tmp_path: Path, stored: str, current: str) -> None:
    level(pipeline(tmp_path, gray(0.2), digest=stored))
    events: list[Event] = []
    assert level(pipeline(tmp_path, gray(0.8), digest=current, events=events)) == pytest.approx(0.2)
    assert notes(events) == []


def test_an_artifact_of_a_version_that_recorded_no_source_is_used(tmp_path: Path) -> None:
    run = pipeline(tmp_path, gray(0.2), digest="before")
    artifact = run.artifact("distill")
    meta = {name: value for name, value in artifact.meta.items() if name != "source"}
    tensors = {name: value.clone() for name, value in artifact.tensors.items()}
    write_tensors(artifact.path, tensors, {"depends_on": run.key("distill"), "meta": meta})
    later = pipeline(tmp_path, gray(0.8), digest="after")
    assert ("distill", 0) not in later.missing()
    assert level(later) == pytest.approx(0.2)


def test_a_plan_says_what_a_run_of_an_edited_method_builds(tmp_path: Path) -> None:
    pipeline(tmp_path, gray(0.2), digest="before").run()
    assert pipeline(tmp_path, gray(0.2), digest="before").missing() == []
    events: list[Event] = []
    run = pipeline(tmp_path, gray(0.8), digest="after", events=events)
    planned = run.missing()
    assert planned == [("distill", 0), ("evaluate", 0), ("measure", 0)]
    assert dict(run.plan()) | {"teacher": "cached"} == dict(run.plan())
    assert len(notes(events)) == 1
    run.run()
    assert built(events) == [stage for stage, _ in planned]
    assert run.missing() == []


def test_a_plan_names_what_an_interrupted_run_left_to_do(tmp_path: Path) -> None:
    pipeline(tmp_path, gray(0.2), digest="before").run()
    pipeline(tmp_path, gray(0.8), digest="after").artifact("distill")
    events: list[Event] = []
    run = pipeline(tmp_path, gray(0.8), digest="after", events=events)
    planned = run.missing()
    assert planned == [("evaluate", 0), ("measure", 0)]
    run.run()
    assert built(events) == [stage for stage, _ in planned]


@pytest.mark.parametrize(("package", "title"), [("torch", "PyTorch"), ("POT", "POT")])
def test_artifacts_of_another_version_of_a_numerical_package_are_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, title: str
) -> None:
    level(pipeline(tmp_path, gray(0.2)))
    from ddbench.results import provenance

    current = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: {**current, package: "9.9"})
    events: list[Event] = []
    run = pipeline(tmp_path, gray(0.2), events=events)
    run.build("statistics")
    level(run)
    (line,) = notes(events)
    assert f"built with {title} {current[package]}, and this is 9.9" in line


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


def test_the_first_import_of_a_library_is_not_time_of_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_library.py").write_text("import time\ntime.sleep(2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def imports(task: DistillTask) -> None:
        import slow_library  # noqa: F401

    run = pipeline(tmp_path, gray(0.2, imports))
    run.build("statistics")
    start = time.perf_counter()
    seconds = run.artifact("distill").meta["cost"]["seconds"]
    assert "slow_library" in sys.modules
    assert seconds <= time.perf_counter() - start - 2


def test_nested_statistics_under_autocast_are_float32(tmp_path: Path) -> None:
    def nested(task: DistillTask) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            task.statistics(0, layer=1)

    inside = pipeline(tmp_path / "inside", gray(0.2, nested))
    inside.artifact("distill")
    outside = pipeline(tmp_path / "outside", gray(0.2))
    expected = outside.statistics(0, layer=1)
    assert torch.equal(inside.statistics(0, layer=1).features, expected.features)


def test_threads_are_a_setting_that_the_artifact_tells_and_no_key_holds(shared: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    method, before = gray(0.2, lambda task: seen.append(torch.get_num_threads())), torch.get_num_threads()
    threads = (*REQUEST.assignments, f"runtime.threads={before + 1}")
    usual = pipeline(link(shared, tmp_path / "usual"), method)
    more = pipeline(link(shared, tmp_path / "more"), method, assignments=threads)
    messages = [run.artifact("distill").meta["device"]["threads"] for run in (usual, more)]
    assert seen == messages == [before, before + 1]
    assert torch.get_num_threads() == before
    assert usual.cache_key("distill") == more.cache_key("distill")
    assert "threads" not in usual.experiment.model_dump()["runtime"]
