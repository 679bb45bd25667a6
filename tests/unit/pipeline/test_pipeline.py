"""The stage graph on real digits: what a second run finds, what it computes again, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddbench.api.context import DistillTask, EvaluateTask
from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.hookspecs import hookimpl
from ddbench.api.units import Unit, UnitResult, units_of_whole_classes
from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.record import build_record
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.results.records import Record
from ddbench.storage.artifacts import digest_of
from ddbench.storage.cache import Cache

TINY = (
    *("teacher.arch=convnet-bn-d2", "teacher.batch_size=256", "teacher.learning_rate=0.1"),
    *("data.image_size=8", "data.stored_size=8", "evaluator.epochs=2"),
)
WMDD = ("method.steps=4", "method.iterations=1", "method.jitter=1")


def run(pipeline: Pipeline) -> Record:
    pipeline.run()
    return build_record(pipeline)


class Desk:
    """One cache folder and what happened in it: every `run` is a new process's view of it."""

    def __init__(self, folder: Path, plugins: Iterable[object] = ()) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.warnings: list[str] = []
        self._plugins = [SimpleNamespace(ddbench_event=hookimpl(lambda event: self.events.append(event))), *plugins]

    def cell(self, *assignments: str, method: str = "wmdd", **request: Any) -> Experiment:
        registry = self._registry()
        own = WMDD if method == "wmdd" else ()
        options: dict[str, Any] = {"ipcs": (2,), "recipes": ("smoke",), "device": "cpu", "precision": "fp32"}
        options |= request
        options["assignments"] = (*TINY, *own, *assignments)
        (cell,) = experiments(Request(methods=(method,), datasets=("digits",), **options), registry)
        return cell

    def pipeline(self, cell: Experiment, force: frozenset[str] = frozenset()) -> Pipeline:
        cache = Cache(self.folder, force, self.warnings.append)
        return Pipeline(Workspace(self._registry(), cache, None), cell)

    def run(self, *assignments: str, force: frozenset[str] = frozenset(), **request: Any) -> Record:
        self.events.clear()
        return run(self.pipeline(self.cell(*assignments, **request), force))

    def _registry(self) -> PluginRegistry:
        registry = PluginRegistry()
        for plugin in self._plugins:
            registry.register(plugin)
        return registry

    def computed(self) -> dict[str, int]:
        """How many artifacts of each stage the last run built."""
        names = [event.stage for event in self.events if event.kind in ("started", "resumed")]
        return {name: names.count(name) for name in names}

    def times(self, stage: str) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (self.folder / stage).glob("*.safetensors")}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """With the plain experiment done; tests only add to it."""
    desk = Desk(tmp_path_factory.mktemp("cache"))
    desk.first = desk.run()  # type: ignore[attr-defined]
    desk.built = desk.computed()  # type: ignore[attr-defined]
    return desk


def test_a_cold_run_computes_every_stage_once(desk: Desk) -> None:
    built = desk.built  # type: ignore[attr-defined]
    assert built.pop("data") >= 2
    assert built == {"teacher": 1, "statistics": 10, "method": 10, "distill": 1, "evaluate": 1, "measure": 1}


def test_the_same_run_again_computes_nothing_and_says_the_same(desk: Desk) -> None:
    before = desk.run()
    again = desk.run()
    assert desk.computed() == {}
    assert again == before
    assert again.metrics == desk.first.metrics  # type: ignore[attr-defined]


def test_the_same_run_in_another_folder_gives_the_same_numbers(desk: Desk, tmp_path: Path) -> None:
    first: Record = desk.first  # type: ignore[attr-defined]
    other = Desk(tmp_path).run()
    for part in ("name", "keys", "teacher", "distilled_digest", "metrics", "feature_transport_cost"):
        assert getattr(other, part) == getattr(first, part), part


def test_another_ipc_keeps_teacher_and_statistics(desk: Desk) -> None:
    before = {stage: desk.times(stage) for stage in ("data", "teacher", "statistics")}
    record = desk.run(ipcs=(5,))
    assert {stage: desk.times(stage) for stage in before} == before
    assert desk.computed() == {"method": 10, "distill": 1, "evaluate": 1, "measure": 1}
    assert record.distilled_images == 50


def test_another_teacher_seed_keeps_nothing_downstream(desk: Desk) -> None:
    record = desk.run("teacher.seed=1")
    assert desk.computed() == {
        **{"teacher": 1, "statistics": 10, "method": 10, "distill": 1, "evaluate": 1, "measure": 1}
    }
    first: Record = desk.first  # type: ignore[attr-defined]
    assert record.teacher["digest"] != first.teacher["digest"]
    assert record.distilled_digest != first.distilled_digest
    for stage in ("teacher", "statistics", "distill", "evaluate"):
        assert not set(record.keys[stage]) & set(first.keys[stage])


def test_lambda_keeps_the_barycenters(desk: Desk) -> None:
    before = desk.times("method")
    record = desk.run("method.bn_weight=3")
    assert desk.times("method") == before
    assert desk.computed() == {"distill": 1, "evaluate": 1, "measure": 1}
    assert record.distilled_digest != desk.first.distilled_digest  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", ["evaluator.epochs=1", "evaluator.temperature=5"])
def test_the_protocol_keeps_the_distilled_set(desk: Desk, change: str) -> None:
    record = desk.run(change)
    assert desk.computed() == {"evaluate": 1}
    assert record.distilled_digest == desk.first.distilled_digest  # type: ignore[attr-defined]


def test_another_student_or_protocol_keeps_the_distilled_set(desk: Desk) -> None:
    desk.run(students=("convnet-d1",))
    assert desk.computed() == {"evaluate": 1}
    desk.run("evaluator.labels=stored")
    assert desk.computed() == {"evaluate": 1, "labels": 1}
    desk.run(evaluators=("hard",))
    assert desk.computed() == {"evaluate": 1}


def test_variances_by_batch_keep_the_teacher_alone(desk: Desk) -> None:
    record = desk.run("statistics.variance=batch-mean")
    assert "teacher" not in desk.computed()
    assert desk.computed()["statistics"] == 10
    assert record.distilled_digest != desk.first.distilled_digest  # type: ignore[attr-defined]


def test_force_distill_computes_it_and_what_follows_but_not_the_teacher(desk: Desk) -> None:
    before = desk.times("teacher") | desk.times("statistics") | desk.times("method")
    forced = desk.run(force=frozenset({"distill"}))
    assert desk.computed() == {"distill": 1, "evaluate": 1, "measure": 1}
    assert desk.times("teacher") | desk.times("statistics") | desk.times("method") == before
    assert forced.distilled_digest == desk.first.distilled_digest  # type: ignore[attr-defined]
    assert forced.metrics == desk.first.metrics  # type: ignore[attr-defined]


@pytest.mark.parametrize("stage", ["distill", "teacher", "evaluate", "statistics"])
def test_a_damaged_artifact_is_named_and_computed_again(desk: Desk, stage: str) -> None:
    first: Record = desk.first  # type: ignore[attr-defined]
    path = desk.folder / stage / f"{first.keys[stage][0]}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if stage == "evaluate":  # it has no tensors: its body is the header
        content = content[: len(content) // 2]
    path.write_bytes(content)
    desk.warnings.clear()
    again = desk.run()
    assert desk.computed() == {stage: 1}
    assert any(f"damaged {stage} artifact set aside" in warning for warning in desk.warnings)
    assert again.distilled_digest == first.distilled_digest
    assert again.metrics == first.metrics
    assert again.teacher == first.teacher


def test_a_plan_says_what_a_run_then_does(desk: Desk) -> None:
    cached = dict(desk.pipeline(desk.cell()).plan())
    assert cached == dict.fromkeys(("data", "teacher", "statistics", "distill", "evaluate", "measure"), "cached")
    seeded = desk.cell("teacher.seed=5")
    plan = dict(desk.pipeline(seeded).plan())
    assert plan.pop("data") == "cached"
    assert set(plan.values()) == {"to do"}
    other = dict(desk.pipeline(desk.cell("method.bn_weight=77")).plan())
    todo = dict.fromkeys(("distill", "evaluate", "measure"), "to do")
    assert other == {"data": "cached", "teacher": "cached", "statistics": "cached", **todo}
    forced = dict(desk.pipeline(desk.cell(), frozenset({"distill"})).plan())
    assert forced == other
    assert dict(desk.pipeline(desk.cell(method="random", evaluators=("hard",))).plan()) == {
        "data": "cached",
        "distill": "to do",
        "evaluate": "to do",
    }


def test_stages_asked_for_without_gradients_are_the_same(desk: Desk, tmp_path: Path) -> None:
    with torch.no_grad():
        digest = Desk(tmp_path).pipeline(desk.cell()).distilled.digest
    assert digest == desk.first.distilled_digest  # type: ignore[attr-defined]


def test_classes_keep_their_order_in_every_artifact(desk: Desk) -> None:
    pipeline = desk.pipeline(desk.cell())
    names = list(pipeline.dataset.info.class_names)
    assert pipeline.artifact("teacher").meta["classes"] == names
    assert pipeline.artifact("distill", 0).meta["classes"] == names
    assert pipeline.distilled.labels.tolist() == [label for label in range(10) for _ in range(2)]
    mine = pipeline.dataset.train.of_class(7)
    view = pipeline.dataset.evaluation_view("train", mine)
    with torch.no_grad():
        features = pipeline.teacher(view).features
    torch.testing.assert_close(pipeline.statistics(7).features, features, rtol=1e-4, atol=1e-5)


def test_repeats_are_other_sets_and_seeds_other_students(desk: Desk) -> None:
    cell = desk.cell()
    sets, students = set(), set()
    for change in ({"repeat": 1}, {"student_seed": 1}, {"seed": 1}):
        record = run(desk.pipeline(cell.model_copy(update=change)))
        sets.add(record.distilled_digest)
        students.add(record.name)
    assert len(students) == 3
    # The base seed counts for both: repeat 1 of seed 0 is the set of seed 1.
    assert len(sets) == 2
    assert desk.first.distilled_digest in sets  # type: ignore[attr-defined]


def test_the_record_holds_costs_and_digests_of_content(desk: Desk) -> None:
    record: Record = desk.first  # type: ignore[attr-defined]
    pipeline = desk.pipeline(desk.cell())
    assert record.teacher["digest"] == digest_of(pipeline.artifact("teacher").tensors)
    assert record.distilled_digest == pipeline.distilled.digest
    assert set(record.seconds) == {"teacher", "statistics", "distill", "evaluate"}
    assert all(value > 0 for value in record.seconds.values())
    assert record.seconds_per_iteration is not None
    assert 0 < record.seconds_per_iteration * 4 <= record.seconds["distill"]
    assert record.peak_memory["resident"] > 2**20
    costs = pipeline.artifact("measure").meta["transport_cost"]
    assert costs == record.feature_transport_cost
    assert len(record.metrics.per_class) == 10


# -- what a method may not hand back ------------------------------------------------------------------------


Make = Callable[[DistillTask, Unit], Any]


def faulty(make: Make, batch_size: int = 1000) -> object:
    class Faulty(Distiller, frozen=True, extra="forbid"):
        name = "faulty"
        version = "1"
        needs_teacher = False

        def units(self, num_classes: int, ipc: int) -> list[Unit]:
            return units_of_whole_classes(num_classes, ipc, batch_size)

        def distill(self, task: DistillTask, unit: Unit) -> Any:
            return make(task, unit)

    return SimpleNamespace(ddbench_distillers=hookimpl(lambda: [Faulty]))


def gray(unit: Unit, size: int = 8) -> Tensor:
    return torch.full((len(unit.slots), 3, size, size), 0.5)


def indices(task: DistillTask, unit: Unit) -> Tensor:
    return torch.stack([task.dataset.train.of_class(slot.label)[slot.index] for slot in unit.slots])


def first_differs(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


REFUSED: dict[str, tuple[Make, str]] = {
    "another size": (lambda task, unit: gray(unit, 9), r"images of shape \(20, 3, 9, 9\) .*expected \(20, 3, 8, 8\)"),
    "too few": (lambda task, unit: gray(unit)[1:], r"images of shape \(19, 3, 8, 8\)"),
    "NaN": (lambda task, unit: first_differs(gray(unit), float("nan")), r"pixels outside \[0, 1\]"),
    "above 1": (lambda task, unit: first_differs(gray(unit), 1.5), r"pixels outside \[0, 1\] \(from 0.5 to 1.5\)"),
    "uint8": (lambda task, unit: (gray(unit) * 255).to(torch.uint8), r"pixels outside \[0, 1\]"),
    "nothing": (lambda task, unit: UnitResult(), "either images or indices"),
    "both": (
        lambda task, unit: UnitResult(images=gray(unit), indices=indices(task, unit)),
        "either images or indices",
    ),
    "a list": (lambda task, unit: [gray(unit)], "returned list instead of images"),
    "another class": (
        lambda task, unit: UnitResult(indices=indices(task, unit).flip(0)),
        "classes are not those of the slots",
    ),
    "too few indices": (
        lambda task, unit: UnitResult(indices=indices(task, unit)[1:]),
        "19 indices for unit 0; expected 20, one per slot",
    ),
    "outside": (lambda task, unit: UnitResult(indices=indices(task, unit) + 10**6), "outside the training set"),
    "below": (lambda task, unit: UnitResult(indices=indices(task, unit) - 10**6), "outside the training set"),
    "float indices": (
        lambda task, unit: UnitResult(indices=indices(task, unit).float()),
        "torch.float32; expected a one-dimensional int64",
    ),
    "a mask": (
        lambda task, unit: UnitResult(indices=torch.ones(20, dtype=torch.bool)),
        "torch.bool; expected a one-dimensional int64",
    ),
    "negative weight": (
        lambda task, unit: UnitResult(images=gray(unit), weights=first_differs(torch.ones(20), -1)),
        "weights that are not one number >= 0 per slot",
    ),
    "NaN weight": (
        lambda task, unit: UnitResult(images=gray(unit), weights=first_differs(torch.ones(20), float("nan"))),
        "weights that are not one number >= 0 per slot",
    ),
    "too few weights": (
        lambda task, unit: UnitResult(images=gray(unit), weights=torch.ones(10)),
        "weights that are not one number >= 0 per slot",
    ),
    "a class of no weight": (
        lambda task, unit: UnitResult(images=gray(unit), weights=torch.tensor([0.0, 0.0] + [1.0] * 18)),
        "the weights of a class sum to zero",
    ),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_what_a_method_may_not_return_is_refused_by_name(tmp_path: Path, what: str) -> None:
    make, message = REFUSED[what]
    desk = Desk(tmp_path, [faulty(make)])
    with pytest.raises(DDBenchError, match=f"method 'faulty'.*{message}") as caught:
        desk.run(method="faulty", evaluators=("hard",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weighted", [0, 1])
def test_weights_of_some_units_only_are_refused(tmp_path: Path, weighted: int) -> None:
    def make(task: DistillTask, unit: Unit) -> UnitResult:
        weights = torch.ones(len(unit.slots)) if unit.index == weighted else None
        return UnitResult(images=gray(unit), weights=weights)

    desk = Desk(tmp_path, [faulty(make, batch_size=10)])
    with pytest.raises(DDBenchError, match=r"method 'faulty'.* weights for all units or for none"):
        desk.run(method="faulty", evaluators=("hard",))


def test_a_plain_tensor_and_weights_on_any_scale_are_taken(tmp_path: Path) -> None:
    plain = Desk(tmp_path / "plain", [faulty(lambda task, unit: gray(unit))])
    set_of_images = plain.pipeline(plain.cell(method="faulty", evaluators=("hard",))).distilled
    assert set_of_images.images.unique().tolist() == [128]
    assert torch.equal(set_of_images.weights, torch.full((20,), 0.5))
    weights = torch.arange(1.0, 21.0)
    weighted = Desk(tmp_path / "weighted", [faulty(lambda task, unit: UnitResult(images=gray(unit), weights=weights))])
    found = weighted.pipeline(weighted.cell(method="faulty", evaluators=("hard",))).distilled.weights
    torch.testing.assert_close(found[:4], torch.tensor([1 / 3, 2 / 3, 3 / 7, 4 / 7]))


def test_an_evaluator_that_returns_something_else_is_refused_by_name(tmp_path: Path) -> None:
    class Wrong(Evaluator, frozen=True, extra="forbid"):
        name = "wrong"
        version = "1"
        needs_teacher = False
        epochs: int = 1

        def evaluate(self, task: EvaluateTask) -> Any:
            return 97.5

    plugin = SimpleNamespace(ddbench_evaluators=hookimpl(lambda: [Wrong]))
    with pytest.raises(DDBenchError, match=r"evaluator 'wrong' of .* returned float, not Metrics"):
        Desk(tmp_path, [plugin]).run(method="random", evaluators=("wrong",))


def test_a_method_that_cannot_do_it_says_so_before_anything_is_trained(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for method in ("wmdd", "random"):
        with pytest.raises(DDBenchError, match=r"--ipc 500 is more than the \d+ training images of class '\d'"):
            desk.run(method=method, ipcs=(500,))
        assert "teacher" not in desk.computed()
