"""The stage graph on real digits: what a second run finds, what it computes again, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ddbench.pipeline.record import build_record
from ddbench.results.records import Record
from ddbench.storage.artifacts import digest_of

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import Desk, FinishedDesk


def test_a_cold_run_computes_every_stage_once(finished_desk: FinishedDesk) -> None:
    built = dict(finished_desk.built)
    assert built.pop("data") >= 2
    assert built == {"teacher": 1, "statistics": 10, "method": 10, "distill": 1, "evaluate": 1, "measure": 1}


def test_the_same_run_again_computes_nothing_and_says_the_same(finished_desk: FinishedDesk) -> None:
    before = finished_desk.run()
    again = finished_desk.run()
    assert finished_desk.computed() == {}
    first = finished_desk.first
    assert again == before == first
    stages = ("teacher", "statistics", "method", "distill", "evaluate", "measure")
    assert tuple(first.stages) == tuple(first.seconds) == stages
    assert first.built["evaluate"] == first.created
    assert first.built["teacher"] <= first.built["statistics"] <= first.built["distill"] <= first.created


def test_the_same_run_in_another_folder_gives_the_same_numbers(
    desk_in: type[Desk], finished_desk: FinishedDesk, tmp_path: Path
) -> None:
    first = finished_desk.first
    other = desk_in(tmp_path).run()
    for part in ("name", "keys", "teacher", "distilled_digest", "metrics", "feature_transport_cost"):
        assert getattr(other, part) == getattr(first, part), part


def test_another_ipc_keeps_teacher_and_statistics(finished_desk: FinishedDesk) -> None:
    before = {stage: finished_desk.times(stage) for stage in ("data", "teacher", "statistics")}
    record = finished_desk.run(ipcs=(5,))
    assert {stage: finished_desk.times(stage) for stage in before} == before
    assert finished_desk.computed() == {"method": 10, "distill": 1, "evaluate": 1, "measure": 1}
    assert record.distilled_images == 50


@pytest.mark.parametrize("change", ["evaluator.epochs=1", "evaluator.temperature=5"])
def test_the_protocol_keeps_the_distilled_set(finished_desk: FinishedDesk, change: str) -> None:
    record = finished_desk.run(change)
    assert finished_desk.computed() == {"evaluate": 1}
    assert record.distilled_digest == finished_desk.first.distilled_digest


def test_another_student_or_protocol_keeps_the_distilled_set(finished_desk: FinishedDesk) -> None:
    finished_desk.run(students=("convnet-d1",))
    assert finished_desk.computed() == {"evaluate": 1}
    record = finished_desk.run("evaluator.labels=stored")
    assert finished_desk.computed() == {"evaluate": 1, "labels": 1}
    assert record.seconds["labels"] > 0
    again = finished_desk.run("evaluator.labels=stored")
    assert finished_desk.computed() == {}
    assert again == record
    assert again.stages["labels"] == again.stages["evaluate"]
    assert record.built["distill"] == finished_desk.first.built["distill"] <= record.built["labels"]
    finished_desk.run(evaluators=("hard",))
    assert finished_desk.computed() == {"evaluate": 1}


def test_force_distill_computes_it_and_what_follows_but_not_the_teacher(finished_desk: FinishedDesk) -> None:
    before = finished_desk.times("teacher") | finished_desk.times("statistics") | finished_desk.times("method")
    forced = finished_desk.run(force=frozenset({"distill"}))
    assert finished_desk.computed() == {"distill": 1, "evaluate": 1, "measure": 1}
    assert finished_desk.times("teacher") | finished_desk.times("statistics") | finished_desk.times("method") == before
    assert forced.distilled_digest == finished_desk.first.distilled_digest
    assert forced.metrics == finished_desk.first.metrics


@pytest.mark.parametrize("stage", ["distill", "teacher", "evaluate", "statistics"])
def test_a_damaged_artifact_is_named_and_computed_again(finished_desk: FinishedDesk, stage: str) -> None:
    first = finished_desk.first
    path = finished_desk.folder / stage / f"{first.keys[stage][0]}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if stage == "evaluate":  # it has no tensors: its body is the header
        content = content[: len(content) // 2]
    path.write_bytes(content)
    finished_desk.warnings.clear()
    again = finished_desk.run()
    assert finished_desk.computed() == {stage: 1}
    assert any(f"damaged {stage} artifact renamed" in warning for warning in finished_desk.warnings)
    assert again.distilled_digest == first.distilled_digest
    assert again.metrics == first.metrics
    assert again.teacher == first.teacher


def test_a_plan_says_what_a_run_then_does(finished_desk: FinishedDesk) -> None:
    cached = dict(finished_desk.pipeline(finished_desk.cell()).plan())
    assert cached == dict.fromkeys(("data", "teacher", "statistics", "distill", "evaluate", "measure"), "cached")
    seeded = finished_desk.cell("teacher.seed=5")
    plan = dict(finished_desk.pipeline(seeded).plan())
    assert plan.pop("data") == "cached"
    assert set(plan.values()) == {"to do"}
    other = dict(finished_desk.pipeline(finished_desk.cell("method.bn_weight=77")).plan())
    todo = dict.fromkeys(("distill", "evaluate", "measure"), "to do")
    assert other == {"data": "cached", "teacher": "cached", "statistics": "cached", **todo}
    forced = dict(finished_desk.pipeline(finished_desk.cell(), frozenset({"distill"})).plan())
    assert forced == other
    assert dict(finished_desk.pipeline(finished_desk.cell(method="random", evaluators=("hard",))).plan()) == {
        "data": "cached",
        "distill": "to do",
        "evaluate": "to do",
    }


def test_stages_asked_for_without_gradients_are_the_same(
    desk_in: type[Desk], finished_desk: FinishedDesk, tmp_path: Path
) -> None:
    with torch.no_grad():
        digest = desk_in(tmp_path).pipeline(finished_desk.cell()).distilled.digest
    assert digest == finished_desk.first.distilled_digest


def test_classes_keep_their_order_in_every_artifact(finished_desk: FinishedDesk) -> None:
    pipeline = finished_desk.pipeline(finished_desk.cell())
    names = list(pipeline.dataset.info.class_names)
    assert pipeline.artifact("teacher").meta["classes"] == names
    assert pipeline.artifact("distill", 0).meta["classes"] == names
    assert pipeline.distilled.labels.tolist() == [label for label in range(10) for _ in range(2)]
    rows = pipeline.dataset.train.of_class(7)
    view = pipeline.dataset.evaluation_view("train", rows)
    with torch.no_grad():
        features = pipeline.teacher(view).features
    torch.testing.assert_close(pipeline.statistics(7).features, features, rtol=1e-4, atol=1e-5)


def test_repeats_are_other_sets_and_seeds_other_students(finished_desk: FinishedDesk) -> None:
    cell = finished_desk.cell()
    sets, students = set(), set()
    for change in ({"repeat": 1}, {"student_seed": 1}, {"seed": 1}):
        pipeline = finished_desk.pipeline(cell.model_copy(update=change))
        pipeline.run()
        record = build_record(pipeline)
        sets.add(record.distilled_digest)
        students.add(record.name)
    assert len(students) == 3
    # The base seed counts for both: repeat 1 of seed 0 is the set of seed 1.
    assert len(sets) == 2
    assert finished_desk.first.distilled_digest in sets


def test_the_record_holds_costs_and_digests_of_content(finished_desk: FinishedDesk) -> None:
    record: Record = finished_desk.first
    pipeline = finished_desk.pipeline(finished_desk.cell())
    assert record.teacher["digest"] == digest_of(pipeline.artifact("teacher").tensors)
    assert record.distilled_digest == pipeline.distilled.digest
    assert set(record.seconds) == {"teacher", "statistics", "method", "distill", "evaluate", "measure"}
    assert all(value > 0 for value in record.seconds.values())
    assert record.seconds_per_iteration is not None
    assert 0 < record.seconds_per_iteration * 4 <= record.seconds["distill"]
    assert record.peak_memory["resident"] > 2**20
    costs = pipeline.artifact("measure").meta["transport_cost"]
    assert costs == record.feature_transport_cost
    assert len(record.metrics.per_class) == 10


# -- what a method may not hand back ------------------------------------------------------------------------
