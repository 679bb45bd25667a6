"""The stage of the teacher: what follows from it is computed again with another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import FinishedDesk


def test_another_teacher_seed_keeps_nothing_downstream(finished_desk: FinishedDesk) -> None:
    record = finished_desk.run("teacher.seed=1")
    assert finished_desk.computed() == {
        **{"teacher": 1, "statistics": 10, "method": 10, "distill": 1, "evaluate": 1, "measure": 1}
    }
    first = finished_desk.first
    assert record.teacher["digest"] != first.teacher["digest"]
    assert record.distilled_digest != first.distilled_digest
    for stage in ("teacher", "statistics", "distill", "evaluate"):
        assert not set(record.keys[stage]) & set(first.keys[stage])
