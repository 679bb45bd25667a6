"""The time that is left of a grid."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ddbench.pipeline.estimate import Estimate, Schedule
from ddbench.pipeline.executor import Inline


def add(estimate: Estimate, pipeline: Any) -> float:
    estimate.total += pipeline.seconds
    return float(pipeline.seconds)


def cells(executor: object, *seconds: float) -> Any:
    """Stand for pipelines whose estimate is known."""
    return [SimpleNamespace(seconds=each, workspace=SimpleNamespace(executor=executor)) for each in seconds]


def test_the_time_left_follows_the_time_that_finished_cells_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Estimate, "add", add)
    clock = iter([1000.0, 1000.0, 1040.0, 1100.0])
    schedule = Schedule(cells(Inline(), 20.0, 40.0, 60.0), lambda: next(clock))
    assert schedule.total == 120.0
    assert schedule.left(0) == "about 2 min left"
    # The first cell took twice as long as estimated: so will the others.
    assert schedule.left(1) == "about 3 min left"
    # Two cells, estimated at 60 s, took 100 s.
    assert schedule.left(2) == "about 2 min left"


def test_the_time_left_of_a_grid_in_other_processes_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Estimate, "add", add)
    schedule = Schedule(cells(object(), 20.0, 40.0))
    assert (schedule.total, schedule.where) == (60.0, "in one process on this machine")
    assert schedule.left(0) == schedule.left(1) == ""
