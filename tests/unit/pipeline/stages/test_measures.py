"""The measures of a run: what they leave as it is, what is computed again, what is refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from pydantic import Field

from ddbench.api.hookspecs import hookimpl
from ddbench.api.measure import Measure, MeasureTask, Need, Refusal
from ddbench.core import interruption
from ddbench.core.errors import DDBenchError, PluginError
from ddbench.results import frames, records
from ddbench.results.records import Record
from ddbench.training.teacher import accuracy

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import Desk

HARD: dict[str, Any] = {"method": "random", "evaluators": ("hard",)}
"""A student without a teacher."""


class Size(Measure, frozen=True, extra="forbid"):
    """A measure of a set."""

    name = "size"
    version = "1"
    needs: ClassVar[tuple[Need, ...]] = ("set",)
    factor: float = Field(default=1.0, gt=0, description="a factor")

    def compute(self, task: MeasureTask) -> dict[str, float]:
        """Counts the images."""
        return {"size": self.factor * len(task.distilled), "labels": float(task.distilled.labels.sum())}


class Student(Measure, frozen=True, extra="forbid"):
    """A measure of a student."""

    name = "norm"
    version = "1"
    needs: ClassVar[tuple[Need, ...]] = ("student",)

    def compute(self, task: MeasureTask) -> dict[str, float]:
        """Returns the norm of the weights, and the top-1."""
        top1, _ = accuracy(task.student, task.dataset, "val", task.device, task.precision)  # type: ignore[arg-type]
        norms = [float(weight.norm()) for weight in task.student.parameters()]
        return {"norm": sum(norms), "top1": top1}


def plugin(*measures: type[Measure]) -> SimpleNamespace:
    return SimpleNamespace(ddbench_measures=hookimpl(lambda: list(measures)))


@pytest.fixture
def desk(desk_in: type[Desk], tmp_path: Path) -> Desk:
    return desk_in(tmp_path / "cache", [plugin(Size, Student)])


def without_measures(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"measures"})


def test_a_measure_of_a_set_changes_no_key_and_no_other_field(desk: Desk) -> None:
    plain = desk.run(**HARD)
    assert "measures" not in plain.model_dump(mode="json")
    assert "measures" not in plain.configuration
    measured = desk.run("size.factor=2", **HARD, measures=("size",))
    assert desk.computed() == {"measures": 1}
    assert without_measures(measured) == without_measures(plain)
    entry = measured.measures["size"]
    assert (entry.version, entry.settings, entry.values) == ("1", {"factor": 2.0}, {"size": 40.0, "labels": 90.0})
    assert entry.seconds >= 0
    assert desk.run(**HARD) == plain


def test_a_second_measure_of_a_student_trains_none(desk: Desk) -> None:
    first = desk.run(**HARD, measures=("norm",))
    assert desk.computed()["evaluate"] == 1
    second = desk.run("pgd.steps=1", **HARD, measures=("ece", "norm", "pgd"))
    assert desk.computed() == {"measures": 2}
    assert without_measures(second) == without_measures(first)
    assert second.measures["norm"] == first.measures["norm"]
    assert first.measures["norm"].values["top1"] == first.metrics.top1_last
    assert second.measures["pgd"].values["clean"] == pytest.approx(first.metrics.top1_last, abs=0.5)
    desk.run("pgd.steps=2", **HARD, measures=("pgd",))
    assert desk.computed() == {"measures": 1}
    assert desk.run(**HARD).measures == {}
    assert desk.computed() == {}


def test_a_student_whose_weights_were_not_kept_is_trained_again_with_equal_numbers(desk: Desk) -> None:
    plain = desk.run(**HARD)
    cell = desk.cell(**HARD, measures=("norm",))
    assert desk.pipeline(cell).missing() == [("evaluate", 0), ("measures", 0)]
    measured = desk.run(**HARD, measures=("norm",))
    assert desk.computed() == {"evaluate": 1, "measures": 1}
    notes = [event.message for event in desk.events if event.kind == "note" and event.message]
    assert sum("these students are trained again" in note for note in notes) == 1
    assert (measured.metrics, measured.keys) == (plain.metrics, plain.keys)
    assert measured.measures["norm"].values["top1"] == plain.metrics.top1_last


def test_what_a_measure_needs_is_part_of_the_run(desk: Desk) -> None:
    """A worker that computes a measure waits for these artifacts."""
    pipeline = desk.pipeline(desk.cell(**HARD, measures=("coverage", "ece", "size")))
    stage = pipeline.graph["measures"]
    needs = {pipeline.measures[part].name: list(stage.needs(pipeline, part)) for part in stage.parts(pipeline)}
    statistics = [("statistics", label) for label in range(10)]
    assert needs == {
        "coverage": [("data", 0), ("distill", 0), ("teacher", 0), *statistics],
        "ece": [("data", 0), ("evaluate", 0)],
        "size": [("data", 0), ("distill", 0)],
    }
    assert all(number in pipeline.parts_of(name) for pairs in needs.values() for name, number in pairs)


def test_students_of_one_set_share_its_measures(desk: Desk) -> None:
    desk.run(**HARD, measures=("size",))
    desk.run("evaluator.epochs=3", **HARD, measures=("size",))
    assert desk.computed() == {"evaluate": 1}


def test_a_forced_student_is_measured_again(desk: Desk) -> None:
    desk.run(**HARD, measures=("norm", "size"))
    desk.run(**HARD, measures=("norm", "size"), force=frozenset({"evaluate"}))
    assert desk.computed() == {"evaluate": 1, "measures": 2}


def test_a_run_that_stops_in_a_measure_resumes_without_training(desk_in: type[Desk], tmp_path: Path) -> None:
    stops = [True]

    class Stopping(Student, frozen=True, extra="forbid"):
        name = "stopping"

        def compute(self, task: MeasureTask) -> dict[str, float]:
            """Is interrupted the first time."""
            if stops.pop() if stops else False:
                raise interruption.Stopped("Ctrl-C")
            return super().compute(task)

    desk = desk_in(tmp_path, [plugin(Stopping)])
    with pytest.raises(interruption.Stopped):
        desk.run(**HARD, measures=("stopping",))
    assert desk.run(**HARD, measures=("stopping",)).measures["stopping"].values["norm"] > 0
    assert desk.computed() == {"measures": 1}


def test_a_measure_with_a_teacher_has_one_beside_a_method_and_a_protocol_without(desk: Desk) -> None:
    plain = desk.run(**HARD)
    measured = desk.run("coverage.neighbours=1", **HARD, measures=("coverage",))
    assert desk.computed().keys() == {"teacher", "statistics", "measures"}
    assert without_measures(measured) == without_measures(plain)
    values = measured.measures["coverage"].values
    assert values["nearest"] == pytest.approx(0, abs=1e-3)  # the set is real images
    assert 0 < values["coverage"] <= 1
    assert values["recall"] > 0


def test_a_refusal_is_recorded_with_its_reason(desk_in: type[Desk], tmp_path: Path) -> None:
    class Refusing(Size, frozen=True, extra="forbid"):
        name = "refusing"

        def compute(self, task: MeasureTask) -> dict[str, float]:
            """Has no number."""
            raise Refusal("20 images are too few")

    desk = desk_in(tmp_path, [plugin(Refusing)])
    entry = desk.run(**HARD, measures=("refusing",)).measures["refusing"]
    assert (entry.values, entry.refused) == ({}, "20 images are too few")
    assert any(event.message == "measures: refusing: no value: 20 images are too few" for event in desk.events)
    assert desk.run(**HARD, measures=("refusing",)).measures == {"refusing": entry}
    assert desk.computed() == {}


def darken(task: MeasureTask) -> dict[str, float]:
    return {"odd": float(task.distilled.images.zero_().sum())}


def measure_that(compute: Any, declared: tuple[Need, ...] = ("set",)) -> type[Measure]:
    return type("Odd", (Size,), {"name": "odd", "needs": declared, "compute": compute, "__doc__": "."}, frozen=True)


@pytest.mark.parametrize(
    ("compute", "declared", "error", "message"),
    [
        (lambda self, task: {"odd": float("nan")}, ("set",), DDBenchError, "returned odd = nan, not a finite number"),
        (lambda self, task: {"odd": len(task.distilled)}, (), DDBenchError, '`needs` lacks: add "set"'),
        (lambda self, task: {"odd": bool(task.student)}, ("set",), DDBenchError, '`needs` lacks: add "student"'),
        (lambda self, task: task.statistics(0), ("set",), DDBenchError, '`needs` lacks: add "teacher"'),
        (lambda self, task: 1 / 0, ("set",), PluginError, "measure 'odd' of this process: ZeroDivisionError"),
        (
            lambda self, task: {"odd": float(task.dataset.mean.zero_().sum())},
            ("set",),
            PluginError,
            "changed the mean of the dataset in place",
        ),
    ],
)
def test_a_faulty_measure_is_named(
    desk_in: type[Desk],
    tmp_path: Path,
    compute: Any,
    declared: tuple[Need, ...],
    error: type[DDBenchError],
    message: str,
) -> None:
    desk = desk_in(tmp_path, [plugin(measure_that(compute, declared))])
    with pytest.raises(error, match=message):
        desk.run(**HARD, measures=("odd",))
    desk.run(**HARD)
    assert desk.computed() == {}  # the student stays


def test_noise_is_the_same_for_all_students(desk_in: type[Desk], tmp_path: Path) -> None:
    desk = desk_in(
        tmp_path,
        [plugin(measure_that(lambda self, task: {"odd": torch.rand(1, generator=task.generator("x")).item()}))],
    )
    values = [desk.run(**HARD, seed=seed, measures=("odd",)).measures["odd"].values for seed in (0, 1)]
    assert values[0] == values[1]


def test_a_protocol_of_several_students_cannot_be_measured_further(desk_in: type[Desk], tmp_path: Path) -> None:
    from ddbench.evaluators.protocols import HardLabels

    class Several(HardLabels, frozen=True, extra="forbid"):
        name = "several"

        def evaluate(self, task: Any) -> Any:
            """Builds a student too many."""
            task.student()
            return super().evaluate(task)

    desk = desk_in(tmp_path, [SimpleNamespace(ddbench_evaluators=hookimpl(lambda: [Several]))])
    desk.run(method="random", evaluators=("several",))
    with pytest.raises(DDBenchError, match=r"evaluator 'several' of .* called task.student\(\) 2 times"):
        desk.run(method="random", evaluators=("several",), measures=("ece",))


def test_a_record_keeps_its_measures_when_it_is_written_again(desk: Desk, tmp_path: Path) -> None:
    def stored(measures: Iterable[str]) -> Record:
        return records.store(desk.run(**HARD, measures=tuple(measures)), tmp_path / "records")

    (tmp_path / "records").mkdir()
    assert stored(["norm"]).measures.keys() == {"norm"}
    assert stored(["size"]).measures.keys() == {"norm", "size"}
    last = stored([])
    assert last.measures.keys() == {"norm", "size"}
    assert [path.stem for path in (tmp_path / "records").iterdir()] == [last.name]
    frame = frames.to_frame([last])
    assert frame["measure.size"].tolist() == [20.0]
    assert frame["measure.norm.top1"].tolist() == [last.metrics.top1_last]
    assert frames.from_frame(frame) == [last]
