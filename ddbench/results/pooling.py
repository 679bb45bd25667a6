"""Means over students and distilled sets. Tables, figures, scores and summaries share this definition."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ddbench.core.text import counted
from ddbench.results.records import Record


@dataclass(frozen=True)
class Pooled:
    """A mean over distilled sets. Values are first averaged over the students of each set.

    Attributes:
        mean: The mean over the sets.
        deviation: The sample standard deviation over the sets; with one set, over its students; None for one value.
        sets: The number of sets.
        students: The number of students on them.
    """

    mean: float
    deviation: float | None
    sets: int
    students: int

    @property
    def text(self) -> str:
        """Mean and standard deviation as text, or only the mean if there is one value.

        Example:
            >>> Pooled(62.3, 0.424, sets=2, students=2).text
            '62.30 ± 0.42'
        """
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")

    @property
    def count_text(self) -> str:
        """The counts as text: `3 sets`, or `5 on 3 sets` if a set has several students."""
        sets = counted(self.sets, "set")
        return sets if self.students == self.sets else f"{self.students} on {sets}"


def pool(values: Sequence[float], sets: Sequence[Hashable]) -> Pooled:
    """Averages the values of students, set by set.

    Students on one set share its images, so they are not independent measurements of a method. So each set counts once.
    A mean over students would give a set with more students more weight, and its deviation would mix the noise of
    students with that of sets.

    Args:
        values: A value of each student, e.g. top-1 in percent; at least one.
        sets: The distilled set of each student: its digest, so that the same images are one set.

    Returns:
        The mean and its counts.

    Example:
        >>> pool([60.0, 62.0, 66.0], ["a", "a", "b"])
        Pooled(mean=63.5, deviation=3.5355339059327378, sets=2, students=3)
        >>> pool([60.0, 62.0], ["a", "a"]).count_text
        '2 on 1 set'
    """
    means = means_of_sets(values, sets)
    spread = means if len(means) > 1 else list(values)
    deviation = stdev(spread) if len(spread) > 1 else None
    return Pooled(fmean(means), deviation, len(means), len(values))


def means_of_sets(values: Sequence[float], sets: Sequence[Hashable]) -> list[float]:
    """Returns the mean over the students of each set, in the order in which the sets occur.

    Args:
        values: A value of each student.
        sets: The distilled set of each student, as in `pool`.
    """
    by_set: dict[Hashable, list[float]] = {}
    for value, key in zip(values, sets, strict=True):
        by_set.setdefault(key, []).append(value)
    return [fmean(students) for students in by_set.values()]


def pool_top1(students: Sequence[Record]) -> Pooled:
    """Averages the top-1 of students, set by set.

    Args:
        students: A record of each student, e.g. `conditions.Pool.students`; at least one.
    """
    return pool([record.metrics.top1_last for record in students], [record.distilled_digest for record in students])
