"""The mean over sets and students, against closed forms and a brute-force definition."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench.results.pooling import Pooled, pool

STUDENTS = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100)), min_size=1, max_size=12)


def test_one_student_has_no_deviation() -> None:
    assert pool([61.5], ["a"]) == Pooled(61.5, None, 1, 1)


def test_students_on_one_set_and_one_student_on_each_set_have_the_plain_mean_and_deviation() -> None:
    values = [60.0, 61.0, 65.0]
    for sets, count in ((["a"] * 3, 1), (["a", "b", "c"], 3)):
        pooled = pool(values, sets)
        assert (pooled.mean, pooled.deviation) == (fmean(values), stdev(values))
        assert (pooled.sets, pooled.students) == (count, 3)


def test_a_set_counts_once_however_many_students_it_has() -> None:
    few, many = pool([60.0, 70.0], ["a", "b"]), pool([60.0] * 9 + [70.0], ["a"] * 9 + ["b"])
    assert many.mean == few.mean == 65.0
    assert many.deviation == few.deviation == pytest.approx(math.sqrt(50))
    assert (many.count_text, few.count_text) == ("10 on 2 sets", "2 sets")


@given(STUDENTS)
def test_it_is_the_mean_of_the_means(students: list[tuple[int, float]]) -> None:
    sets, values = zip(*students, strict=True)
    pooled = pool(values, sets)
    means = [fmean(value for key, value in students if key == each) for each in sorted(set(sets))]
    assert pooled.mean == pytest.approx(fmean(means))
    assert pooled.sets == len(means)
    assert pooled.students == len(students)
    if len(means) > 1:
        assert pooled.deviation == pytest.approx(stdev(means), abs=1e-9)


@given(STUDENTS, st.randoms(use_true_random=False))
def test_the_order_of_the_students_does_not_matter(students: list[tuple[int, float]], random: object) -> None:
    sets, values = zip(*students, strict=True)
    shuffled = list(students)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other_sets, other_values = zip(*shuffled, strict=True)
    one, other = pool(values, sets), pool(other_values, other_sets)
    assert one.mean == pytest.approx(other.mean)
    assert (one.sets, one.students) == (other.sets, other.students)
