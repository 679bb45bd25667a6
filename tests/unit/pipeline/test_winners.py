"""The winner of a search is the point with the highest mean on held-out images; times count shared sets once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ddbench.pipeline.winners import Candidate, mean_top1, seconds_of, trials_text, tuning_text, winners_of
from ddbench.results.records import Record

Make = Callable[..., Record]


def candidate(method: str, value: str, top1: float | None, *records: Record) -> Candidate:
    return Candidate(method, (("method.x", value),), (1,), list(records), top1)


def test_the_highest_mean_wins_and_of_equal_ones_the_first() -> None:
    tried = [candidate("a", "1", 40.0), candidate("a", "2", 50.0), candidate("a", "3", 50.0), candidate("b", "1", 0.0)]
    winners = winners_of(tried)
    assert {method: winner.settings for method, winner in winners.items()} == {"a": "method.x=2", "b": "method.x=1"}


def test_a_point_with_a_failed_student_cannot_win() -> None:
    assert winners_of([candidate("a", "1", None), candidate("a", "2", 3.0), candidate("b", "1", None)]).keys() == {"a"}
    assert winners_of([candidate("a", "1", None), candidate("a", "2", 3.0)])["a"].settings == "method.x=2"


def test_protocols_count_equally_whatever_their_numbers_of_students(record: Make) -> None:
    """Mean of fkd: (60 + 64) / 2, of hard: 40."""
    students = [record(60.0), record(64.0, repeat=1, distilled_digest="other"), record(40.0, evaluator="hard")]
    assert mean_top1(students) == pytest.approx((62.0 + 40.0) / 2)


def test_a_set_of_several_students_costs_once(record: Make) -> None:
    seconds = {"distill": 100.0, "method": 20.0, "evaluate": 7.0, "teacher": 1000.0}
    shared = [record(1.0, name=name, seconds=seconds, keys={"distill": ["one"]}) for name in ("a", "b")]
    other = record(1.0, name="c", seconds=seconds, keys={"distill": ["two"]})
    assert seconds_of([*shared, other, other]) == 2 * 120.0 + 3 * 7.0


def test_the_tables_count_trials_and_students(record: Make) -> None:
    tried = [
        candidate("wmdd", "1", 60.0, record(58.0), record(62.0, repeat=1, distilled_digest="other")),
        candidate("wmdd", "2", None),
        candidate("random", "1", None),
    ]
    lines = [line.split("  ") for line in trials_text(tried).splitlines()]
    assert [line[-1].strip() for line in lines] == ["trials", "------", "1", "1", "1"]
    text = tuning_text(tried, winners_of(tried), [record(55.0)])
    wmdd, random = text.splitlines()[2:]
    held_out, validation = "60.00 ± 2.83 2 students on 2 sets", "55.00 1 student on 1 set"
    assert " ".join(wmdd.split()[:-1]) == f"wmdd 2 method.x=1 {held_out} {validation}"
    assert random.split() == ["random", "1", "failed", "0.0"]


def test_equal_results_stay_in_the_columns_of_a_narrow_table(record: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    tried = [candidate("wmdd", value, 60.0, record(60.0)) for value in ("1", "2")]
    for text in (trials_text(tried), tuning_text(tried, winners_of(tried), [])):
        table = next(section for section in text.split("\n\n") if "held-out top-1" in section)
        assert "60.00" in table.splitlines()[2]
