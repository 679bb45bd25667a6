"""Differences between groups: the formulas of the tests, pairs, nested means, and Holm's correction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean, stdev, variance

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t  # type: ignore[import-untyped]

from ddbench.results.significance import Difference, Result, best_of, corrected, difference, holm


def group(name: str, *values: float, first_set: int = 0) -> list[Result]:
    """One student on each set."""
    return [Result((first_set + seed, 0), f"{name}{first_set + seed}", value) for seed, value in enumerate(values)]


def matches(made: Difference, mean: float, error: float, freedom: float) -> bool:
    """Whether test and interval are those of a mean with a standard error and degrees of freedom."""
    half = student_t.ppf(0.975, freedom) * error
    assert made.interval is not None
    assert (made.statistic, made.freedom) == (pytest.approx(mean / error), pytest.approx(freedom))
    assert made.interval == (pytest.approx(mean - half), pytest.approx(mean + half))
    assert made.p == pytest.approx(2 * student_t.sf(abs(mean / error), freedom))
    return made.mean == pytest.approx(mean)


def test_shared_sets_are_pairs() -> None:
    one, two = (60.0, 64.0, 66.0, 61.0), (59.0, 60.0, 65.0, 62.0)
    values = [a - b for a, b in zip(one, two, strict=True)]
    made = difference(group("a", *one), group("b", *reversed(two))[::-1])
    assert made.over == "4 shared sets"
    made = difference(group("a", *one), group("b", *two))
    assert (made.test, made.over) == ("paired t-test", "4 shared sets")
    assert matches(made, fmean(values), stdev(values) / 2, 3)


def test_the_students_of_a_set_are_averaged_first() -> None:
    one = [Result((0, 0), "a0", 60.0), Result((0, 1), "a0", 64.0), Result((1, 0), "a1", 70.0)]
    two = [Result((0, 0), "b0", 50.0), Result((0, 1), "b0", 52.0), Result((1, 0), "b1", 66.0)]
    made = difference(one, two)
    assert made.over == "2 shared sets"
    assert matches(made, fmean([11.0, 4.0]), stdev([11.0, 4.0]) / math.sqrt(2), 1)


def test_what_only_one_group_has_is_left_out_of_the_pairs() -> None:
    made = difference(group("a", 60.0, 62.0, 64.0, 99.0), group("b", 59.0, 60.0, 61.0))
    assert (made.over, made.first, made.second, made.mean) == ("3 shared sets", 62.0, 60.0, 2.0)


def test_groups_without_shared_seeds_are_compared_by_their_sets() -> None:
    one, two = (60.0, 62.0, 67.0), (50.0, 51.0, 54.0, 53.0)
    made = difference(group("a", *one), group("b", *two, first_set=10))
    assert (made.test, made.over) == ("Welch's t-test", "3 and 4 sets")
    parts = variance(one) / 3, variance(two) / 4
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
    assert matches(made, fmean(one) - fmean(two), math.sqrt(sum(parts)), freedom)


def test_students_on_one_set_are_tested_as_such() -> None:
    one = [Result((0, seed), "a0", value) for seed, value in enumerate((60.0, 62.0, 65.0))]
    two = [Result((0, seed), "b0", value) for seed, value in enumerate((59.0, 60.0, 60.0))]
    made = difference(one, two)
    assert (made.test, made.over) == ("paired t-test", "3 students on one set")
    assert matches(made, fmean([1.0, 2.0, 5.0]), stdev([1.0, 2.0, 5.0]) / math.sqrt(3), 2)


def test_equal_images_for_several_seeds_are_one_set_of_a_method() -> None:
    # A deterministic method: its three students share one set, which three random sets are compared with.
    fixed = [Result((seed, seed), "a", 60.0 + seed) for seed in range(3)]
    random = [Result((seed, seed), f"b{seed}", 50.0 + seed * seed) for seed in range(3)]
    assert difference(fixed, random).over == "3 shared sets"
    also_fixed = [Result((seed, seed), "b", 50.0 + seed * seed) for seed in range(3)]
    assert difference(fixed, also_fixed).over == "3 students on one set"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (group("a", 60.0), group("b", 50.0)),
        (group("a", 60.0), group("b", 49.0, 50.0, 51.0, first_set=5)),
        (group("a", 60.0, 61.0), group("b", 50.0, 51.0)),
        (group("a", 60.0, 60.0), group("b", 50.0, 50.0, first_set=5)),
    ],
)
def test_without_variance_or_several_values_there_is_no_test(one: list[Result], two: list[Result]) -> None:
    made = difference(one, two)
    assert (made.mean, made.test, made.interval, made.p) == (10.0, "", None, None)


def closed_test(p_values: Sequence[float], index: int) -> float:
    """The corrected p-value by definition: the largest of Bonferroni over all sets of hypotheses with this one."""
    others = [number for number in range(len(p_values)) if number != index]
    subsets = itertools.chain.from_iterable(itertools.combinations(others, size) for size in range(len(others) + 1))
    tested = ([p_values[index], *(p_values[number] for number in subset)] for subset in subsets)
    return max(min(1.0, len(values) * min(values)) for values in tested)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    expected = [closed_test(p_values, index) for index in range(len(p_values))]
    assert holm(p_values) == pytest.approx(expected)


def test_differences_without_a_test_do_not_count_in_the_correction() -> None:
    tested = [Difference(1.0, 0.0, "", p=p) for p in (0.01, None, 0.04)]
    assert corrected(tested) == [pytest.approx(0.02), None, pytest.approx(0.04)]


def test_best_are_those_that_cannot_be_distinguished() -> None:
    groups = {
        "close": group("c", 65.0, 63.0, 66.0),
        "best": group("b", 66.0, 65.0, 65.5),
        "worse": group("w", 61.0, 60.1, 60.4),
        "one student": group("o", 65.2),
    }
    assert best_of(groups) == {"best", "close"}
    assert best_of({"alone": group("a", 1.0)}) == {"alone"}
    assert best_of({**groups, "same": groups["best"]}) == {"best", "close", "same"}  # no test between equal results
