"""The conditions in which averaged records differ, and other numbers of one key. In tables: tests/unit/tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ddbench.results.mixtures import by_evaluate_key, describe_mixture, mixture, other_numbers
from ddbench.results.records import Record

Make = Callable[..., Record]
BUILT = {"torch": "2.15.0", "threads": 1}
STAGES = {"teacher": [BUILT], "distill": [BUILT], "evaluate": [BUILT]}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, ""),
        ({"repeat": 1, "seed": 1}, ""),
        ({"device": {"type": "cuda", "name": "a GPU", "threads": 1}}, "device a CPU, a GPU"),
        ({"data": {"fingerprint": "f"}}, "2 versions of the real images"),
        ({"versions": {"numerics": "models=2"}}, "version of models 1, 2"),
        ({"stages": {**STAGES, "distill": [{**BUILT, "threads": 2}]}}, "threads 1, 2 (distill)"),
        (
            {"stages": {**STAGES, "distill": [{**BUILT, "threads": 2}], "evaluate": [{**BUILT, "threads": 2}]}},
            "threads 1, 2 (distill, evaluate)",
        ),
        ({"stages": {**STAGES, "distill": [BUILT, {**BUILT, "torch": None}]}}, "torch 2.15.0, not recorded (distill)"),
        ({"stages": {**STAGES, "teacher": [{**BUILT, "threads": 8}]}}, ""),  # the teachers are equal
    ],
)
def test_what_differs_is_named(record: Make, changes: dict[str, Any], text: str) -> None:
    first = record(50.0, stages=STAGES, versions={"numerics": "models=1"})
    other = record(60.0, **{"stages": STAGES, "versions": {"numerics": "models=1"}, **changes})
    assert mixture([first, other]) == mixture([other, first]) == text


def test_how_teachers_were_built_counts_where_they_differ(record: Make) -> None:
    teacher = record(50.0).teacher
    pair = [
        record(50.0).model_copy(
            update={
                "teacher": {**teacher, "digest": digest},
                "stages": {**STAGES, "teacher": [{**BUILT, "threads": threads}]},
            }
        )
        for digest, threads in (("a", 1), ("b", 8))
    ]
    assert mixture(pair) == "2 teachers; threads 1, 8 (teacher)"


def test_records_that_do_not_say_how_they_were_built_are_counted(record: Make) -> None:
    text = mixture([record(50.0, stages=STAGES), record(50.0), record(50.0)])
    assert text.endswith("2 of 3 do not record how their stages were built")


def test_other_numbers_of_a_key_are_named(record: Make) -> None:
    shown, same, other, elsewhere = (
        record(top1, name=name, keys={"evaluate": [key]})
        for top1, name, key in ((50.0, "a", "k"), (50.0, "b", "k"), (43.0, "c", "k"), (10.0, "d", "l"))
    )
    by_key = by_evaluate_key([shown, same, other, elsewhere])
    assert {key: [one.name for one in found] for key, found in by_key.items()} == {"k": ["a", "b", "c"], "l": ["d"]}
    text = "not shown: other top-1 with the same evaluate key: 43.00 (c)"
    assert other_numbers([shown], by_key) == describe_mixture([shown], by_key) == text
    assert other_numbers([elsewhere], by_key) == describe_mixture([elsewhere], by_key) == ""
