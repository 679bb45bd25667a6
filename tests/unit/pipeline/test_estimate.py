"""The time that is left of a grid."""

from __future__ import annotations

from typing import Any

import pytest

from ddbench.pipeline.estimate import Estimate, Schedule


def test_the_time_left_follows_the_time_that_finished_cells_took(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(estimate: Estimate, pipeline: Any) -> float:
        estimate.total += pipeline
        return float(pipeline)

    monkeypatch.setattr(Estimate, "add", add)
    clock = iter([1000.0, 1000.0, 1040.0, 1100.0])
    schedule = Schedule([20.0, 40.0, 60.0], lambda: next(clock))  # type: ignore[list-item]
    assert schedule.total == 120.0
    assert schedule.left(0) == "about 2 min left"
    # The first cell took twice as long as estimated: so will the others.
    assert schedule.left(1) == "about 3 min left"
    # Two cells, estimated at 60 s, took 100 s.
    assert schedule.left(2) == "about 2 min left"
