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
    from tests.unit.pipeline.conftest import Desk


@pytest.fixture(scope="module")
def desk(desk_in: type[Desk], tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """With the plain experiment done; tests only add to it."""
    desk = desk_in(tmp_path_factory.mktemp("cache"))
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
    first: Record = desk.first  # type: ignore[attr-defined]
    assert again.model_copy(update={"built": first.built}) == first
    stages = ("teacher", "statistics", "method", "distill", "evaluate", "measure")
    assert tuple(first.stages) == tuple(first.seconds) == stages
    assert first.built == {stage: 10 if stage in ("statistics", "method") else 1 for stage in stages}
    assert again.built == dict.fromkeys(stages, 0)


def test_the_same_run_in_another_folder_gives_the_same_numbers(desk_in: type[Desk], desk: Desk, tmp_path: Path) -> None:
    first: Record = desk.first  # type: ignore[attr-defined]
    other = desk_in(tmp_path).run()
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
    first: Record = desk.first  # type: ignore[attr-defined]
    assert record.distilled_digest != first.distilled_digest
    assert record.seconds["method"] == first.seconds["method"]
    assert record.distill_seconds == pytest.approx(record.seconds["method"] + record.seconds["distill"])
    assert (record.built["method"], record.built["distill"]) == (0, 1)


@pytest.mark.parametrize("change", ["evaluator.epochs=1", "evaluator.temperature=5"])
def test_the_protocol_keeps_the_distilled_set(desk: Desk, change: str) -> None:
    record = desk.run(change)
    assert desk.computed() == {"evaluate": 1}
    assert record.distilled_digest == desk.first.distilled_digest  # type: ignore[attr-defined]


def test_another_student_or_protocol_keeps_the_distilled_set(desk: Desk) -> None:
    desk.run(students=("convnet-d1",))
    assert desk.computed() == {"evaluate": 1}
    record = desk.run("evaluator.labels=stored")
    assert desk.computed() == {"evaluate": 1, "labels": 1}
    assert record.seconds["labels"] > 0
    again = desk.run("evaluator.labels=stored")
    assert desk.computed() == {}
    assert again.model_copy(update={"built": record.built}) == record
    assert again.stages["labels"] == again.stages["evaluate"]
    assert (record.built["labels"], again.built["labels"]) == (1, 0)
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
    assert any(f"damaged {stage} artifact renamed" in warning for warning in desk.warnings)
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


def test_stages_asked_for_without_gradients_are_the_same(desk_in: type[Desk], desk: Desk, tmp_path: Path) -> None:
    with torch.no_grad():
        digest = desk_in(tmp_path).pipeline(desk.cell()).distilled.digest
    assert digest == desk.first.distilled_digest  # type: ignore[attr-defined]


def test_classes_keep_their_order_in_every_artifact(desk: Desk) -> None:
    pipeline = desk.pipeline(desk.cell())
    names = list(pipeline.dataset.info.class_names)
    assert pipeline.artifact("teacher").meta["classes"] == names
    assert pipeline.artifact("distill", 0).meta["classes"] == names
    assert pipeline.distilled.labels.tolist() == [label for label in range(10) for _ in range(2)]
    rows = pipeline.dataset.train.of_class(7)
    view = pipeline.dataset.evaluation_view("train", rows)
    with torch.no_grad():
        features = pipeline.teacher(view).features
    torch.testing.assert_close(pipeline.statistics(7).features, features, rtol=1e-4, atol=1e-5)


def test_repeats_are_other_sets_and_seeds_other_students(desk: Desk) -> None:
    cell = desk.cell()
    sets, students = set(), set()
    for change in ({"repeat": 1}, {"student_seed": 1}, {"seed": 1}):
        pipeline = desk.pipeline(cell.model_copy(update=change))
        pipeline.run()
        record = build_record(pipeline)
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
    assert set(record.seconds) == {"teacher", "statistics", "method", "distill", "evaluate", "measure"}
    assert all(value > 0 for value in record.seconds.values())
    assert record.seconds_per_iteration is not None
    assert 0 < record.seconds_per_iteration * 4 <= record.seconds["distill"]
    assert record.peak_memory["resident"] > 2**20
    costs = pipeline.artifact("measure").meta["transport_cost"]
    assert costs == record.feature_transport_cost
    assert len(record.metrics.per_class) == 10


# -- what a method may not hand back ------------------------------------------------------------------------
