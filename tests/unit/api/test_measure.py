"""What a measure may return."""

from __future__ import annotations

import re

import pytest

from ddbench.api.measure import Measure, check_values
from ddbench.core.errors import DDBenchError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "returned NoneType, not numbers by name"),
        ({}, "returned {}, not numbers by name"),
        ([1.0], "returned list, not numbers by name"),
        ({"a": float("nan")}, "returned a = nan, not a finite number"),
        ({"a": float("inf")}, "returned a = inf, not a finite number"),
        ({"a": "1"}, "returned a = '1', not a finite number"),
        ({"a": True}, "returned a = True, not a finite number"),
        ({"a b": 1.0}, "returned the name 'a b': use letters, digits and _ + -"),
        ({1: 1.0}, "returned the name 1: use letters, digits and _ + -"),
    ],
)
def test_other_values_are_refused(values: object, message: str) -> None:
    with pytest.raises(DDBenchError, match=re.escape(f"measure 'm' of here {message}")):
        check_values(values, "measure 'm' of here")


def test_a_measure_can_always_be_computed_by_default() -> None:
    class Plain(Measure):
        name = "plain"
        version = "1"
        needs = ()

    assert Plain().skip(None, 1) is None  # type: ignore[arg-type]
    assert Plain().image_passes(None) == 0  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError):
        Plain().compute(None)  # type: ignore[arg-type]
