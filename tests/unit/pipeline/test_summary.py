"""The summary of a run: one row for students that differ in seeds alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.pipeline.summary import summarise, summary_text
from ddbench.results.measures import Measured
from ddbench.results.records import Record

if TYPE_CHECKING:
    from tests.unit.pipeline.conftest import Desk


def test_students_and_sets_are_pooled_and_nothing_counts_twice(
    desk_in: type[Desk], record: Callable[..., Record], tmp_path: Path
) -> None:
    desk = desk_in(tmp_path)
    pipeline = desk.pipeline(desk.cell())
    students = [record(60.0, seed=0), record(62.0, seed=1), record(67.0, repeat=1)]
    actual = [*students, record(62.0, seed=1), record(40.0, ipc=1), record(50.0, method="random")]
    frame = summarise((pipeline, each) for each in actual)
    shown = frame[["method", "ipc", "top-1 (last epoch)", "n"]].values.tolist()
    assert shown == [
        ["wmdd", "10", "64.00 ± 4.24", "3 students on 2 sets"],  # of the sets: 61 and 67
        ["wmdd", "1", "40.00", "1 student on 1 set"],
        ["random", "10", "50.00", "1 student on 1 set"],
    ]
    assert set(frame["recipe"]) == {"quick"}
    assert "measured on" not in frame


def test_equal_values_of_a_measure_stay_in_the_columns_of_a_narrow_table(
    desk_in: type[Desk], record: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    desk = desk_in(tmp_path)
    pipeline = desk.pipeline(desk.cell())
    pgd = Measured(version="1", settings={}, values={"top1": 17.25}, seconds=1.0)
    actual = [record(60.0, method=method, measures={"pgd": pgd}) for method in ("kmeans", "random")]
    text = summary_text((pipeline, each) for each in actual)
    assert "measure.pgd.top1 17.25" not in text
    rows = [line.split() for line in text.splitlines() if "17.25" in line]
    assert [row[:4] for row in rows] == [[method, "10", "60.00", "17.25"] for method in ("kmeans", "random")]
