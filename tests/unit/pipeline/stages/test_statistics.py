"""The stage of the statistics: what its settings change, and what they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import FinishedDesk


def test_variances_by_batch_keep_the_teacher_alone(finished_desk: FinishedDesk) -> None:
    record = finished_desk.run("statistics.variance=batch-mean")
    assert "teacher" not in finished_desk.computed()
    assert finished_desk.computed()["statistics"] == 10
    assert record.distilled_digest != finished_desk.first.distilled_digest
