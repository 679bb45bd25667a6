"""Differences between groups of students: t-tests over distilled sets, and Holm's correction. Imports no torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from ddbench.core.text import counted
from ddbench.results.conditions import seeds
from ddbench.results.pooling import means_of_sets
from ddbench.results.records import Record

LEVEL = 0.05
"""Level of significance. Confidence intervals cover 1 - LEVEL."""
ON_ONE_SET = "students on one set"
"""What a test is over that compares one set with one other set."""


class Result(NamedTuple):
    """The accuracy of a student.

    Attributes:
        seeds: The seeds of its distilled set and of the student. Students of two groups with equal seeds are a pair.
        images: The distilled set: its digest, so that the same images are one set.
        value: The accuracy in percent.
    """

    seeds: tuple[int, int]
    images: Hashable
    value: float


def results_of(students: Iterable[Record], label: int | None = None) -> list[Result]:
    """Returns the results of students.

    Args:
        students: A record of each student, e.g. `conditions.Pool.students`.
        label: The class whose accuracy counts. None: top-1 over all classes.
    """
    return [
        Result(
            seeds(one), one.distilled_digest, one.metrics.top1_last if label is None else one.metrics.per_class[label]
        )
        for one in students
    ]


@dataclass(frozen=True)
class Difference:
    """The difference of two means, and its test.

    Attributes:
        first: The mean of the first group, over the values that are compared.
        second: The mean of the second group.
        over: What the test is over, e.g. `3 shared sets`.
        test: The name of the test; empty without a test.
        interval: The confidence interval of `mean`. None without a test.
        statistic: Student's t. None without a test.
        freedom: Its degrees of freedom. None without a test.
        p: The two-sided p-value, without a correction. None without a test.
    """

    first: float
    second: float
    over: str
    test: str = ""
    interval: tuple[float, float] | None = None
    statistic: float | None = None
    freedom: float | None = None
    p: float | None = None

    @property
    def mean(self) -> float:
        """The first mean minus the second, in percentage points."""
        return self.first - self.second


def difference(first: Sequence[Result], second: Sequence[Result]) -> Difference:
    """Compares the accuracies of two groups of students.

    Students with equal seeds of set and student are pairs: their views, batches and initial weights are equal. The
    differences of the pairs are averaged over the students of each pair of sets, as in `results.pooling`, and the
    paired t-test is over the pairs of sets. With fewer than two pairs of sets, it is Welch's t-test over the means of
    all sets; if a group has one set only, it is the paired t-test over the students of one shared set, which says
    nothing about other sets of the methods.

    Args:
        first: The results of a group; at least one.
        second: Those of the other group.

    Returns:
        The difference. It has no test if there are too few values, or if they do not vary.

    Example:
        >>> one = [Result((seed, 0), f"a{seed}", value) for seed, value in enumerate((60.0, 62.0, 64.0))]
        >>> two = [Result((seed, 0), f"b{seed}", value) for seed, value in enumerate((59.0, 60.0, 61.0))]
        >>> made = difference(one, two)
        >>> made.mean, made.test, made.over, round(made.p, 4)
        (2.0, 'paired t-test', '3 shared sets', 0.0742)
    """
    others = {result.seeds: result for result in second}
    pairs = [(result, others[result.seeds]) for result in first if result.seeds in others]
    by_sets: dict[tuple[Hashable, Hashable], list[tuple[float, float]]] = {}
    for one, other in pairs:
        by_sets.setdefault((one.images, other.images), []).append((one.value, other.value))
    means = [(fmean(a for a, _ in values), fmean(b for _, b in values)) for values in by_sets.values()]
    if len(means) > 1:
        return _paired(means, counted(len(means), "shared set"))
    sets = [_means_of_sets(group) for group in (first, second)]
    if min(map(len, sets)) > 1:
        return _welch(*sets)
    if len(pairs) > 1:
        return _paired(next(iter(by_sets.values())), f"{len(pairs)} {ON_ONE_SET}")
    return Difference(fmean(sets[0]), fmean(sets[1]), "there are no two pairs of sets or students")


def _means_of_sets(results: Sequence[Result]) -> list[float]:
    return means_of_sets([result.value for result in results], [result.images for result in results])


def _paired(pairs: Sequence[tuple[float, float]], over: str) -> Difference:
    from scipy import stats  # type: ignore[import-untyped]

    means = fmean(one for one, _ in pairs), fmean(other for _, other in pairs)
    differences = [one - other for one, other in pairs]
    if max(differences) - min(differences) < 1e-9:
        return Difference(*means, f"the differences of the {over} are equal")
    return _tested(means, over, "paired t-test", stats.ttest_1samp(differences, 0.0))


def _welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    from scipy import stats

    means, over = (fmean(first), fmean(second)), f"{len(first)} and {len(second)} sets"
    if max(first) - min(first) + max(second) - min(second) < 1e-9:
        return Difference(*means, f"the values of the {over} are equal")
    return _tested(means, over, "Welch's t-test", stats.ttest_ind(first, second, equal_var=False))


def _tested(means: tuple[float, float], over: str, test: str, result: Any) -> Difference:
    low, high = result.confidence_interval(1 - LEVEL)
    statistic, freedom, p = (float(getattr(result, name)) for name in ("statistic", "df", "pvalue"))
    return Difference(*means, over, test, (float(low), float(high)), statistic, freedom, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for multiple comparisons.

    With this correction, the probability of one or more false rejections is at most the level, whatever the dependence
    of the tests.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.

    Args:
        p_values: The p-values of all comparisons.

    Returns:
        The corrected p-values, in the same order.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def corrected(differences: Sequence[Difference]) -> list[float | None]:
    """Returns the p-values of differences after Holm's correction; None for a difference without a test."""
    values = iter(holm([each.p for each in differences if each.p is not None]))
    return [None if each.p is None else next(values) for each in differences]


def best_of(groups: Mapping[str, Sequence[Result]], need_test: bool = False) -> set[str]:
    """Returns the groups with the highest mean, and the groups that cannot be distinguished from it.

    Each other group is compared with the best one (`difference`), with Holm's correction over these comparisons. A
    group cannot be distinguished if its corrected p-value is at least LEVEL. A group that cannot be tested, e.g. with
    one student, is not returned.

    Args:
        groups: The results of each group, at least one.
        need_test: Whether no group is returned if the best one cannot be tested against any other.

    Example:
        >>> def group(name, *values):
        ...     return [Result((seed, 0), f"{name}{seed}", value) for seed, value in enumerate(values)]
        >>> sorted(best_of({"a": group("a", 60, 62, 64), "b": group("b", 59, 60, 61), "c": group("c", 20, 21, 23)}))
        ['a', 'b']
    """
    means = {name: fmean(_means_of_sets(results)) for name, results in groups.items()}
    best = max(means, key=means.__getitem__)
    equal = {name for name, mean in means.items() if mean == means[best]}
    others = [name for name in groups if name != best]
    differences = [difference(groups[best], groups[name]) for name in others]
    if need_test and not any(each.test for each in differences):
        return set()
    p_values = corrected(differences)
    return equal | {name for name, p in zip(others, p_values, strict=True) if p is not None and p >= LEVEL}
