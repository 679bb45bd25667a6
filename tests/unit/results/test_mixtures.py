"""The conditions in which averaged records differ, and other numbers of one key. In tables: tests/unit/tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ddbench.results.conditions import pools
from ddbench.results.mixtures import describe_mixture, mixture, other_numbers
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
        ({"versions": {"numerics": "models=0"}}, "numerics installed, models=0"),
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
    first = record(50.0, stages=STAGES)
    other = record(60.0, **{"stages": STAGES, **changes})
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


def test_other_numbers_of_the_same_student_are_named(record: Make) -> None:
    shown, twin, other_seed = record(50.0, name="a"), record(43.0, name="b"), record(10.0, name="c", seed=1)
    stored = [shown, twin, other_seed]
    of_pools = pools(stored)
    text = "not shown: 43.00 (b), with the same seeds or images"
    assert other_numbers([shown, other_seed], of_pools) == describe_mixture([shown, other_seed], of_pools) == text
    assert other_numbers([shown], pools([shown, record(50.0, name="d")])) == ""
