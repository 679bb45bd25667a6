"""Selects the winners of a search by their top-1 on held-out training images, and formats the search as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ddbench.core.text import counted
from ddbench.core.text_layout import format_rows
from ddbench.pipeline.search_space import Point
from ddbench.results.conditions import pools
from ddbench.results.pooling import pool_top1
from ddbench.results.records import Record


@dataclass(frozen=True)
class Candidate:
    """One point of a search and its result.

    Attributes:
        method: The name of the method.
        point: The searched settings.
        trials: The numbers of its trials.
        records: The records of its trials.
        top1: Mean top-1 on the held-out images, in percent; None if a student of the point failed.
    """

    method: str
    point: Point
    trials: tuple[int, ...]
    records: list[Record]
    top1: float | None

    @property
    def settings(self) -> str:
        """The searched settings as text."""
        return ", ".join(f"{path}={value}" for path, value in self.point) or "defaults"


def winners_of(candidates: Iterable[Candidate]) -> dict[str, Candidate]:
    """Returns the point of each method with the highest mean top-1 on the held-out images; of equal ones the first.

    A method of which every point failed has no winner.
    """
    complete: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.top1 is not None:
            complete.setdefault(candidate.method, []).append(candidate)
    return {method: max(own, key=lambda candidate: candidate.top1 or 0.0) for method, own in complete.items()}


def mean_top1(records: Iterable[Record]) -> float:
    """Returns the mean over pools (datasets, IPCs, protocols, students) of the mean top-1 over the sets of each."""
    return fmean(pool_top1(pool.students).mean for pool in pools(records))


def _result(records: Sequence[Record]) -> tuple[str, str]:
    """Returns mean top-1 with its standard deviation, and the counts, as text. Several pools have only a mean."""
    pooled = [pool_top1(pool.students) for pool in pools(records)]
    if len(pooled) == 1:
        return pooled[0].text, f"{counted(pooled[0].students, 'student')} on {counted(pooled[0].sets, 'set')}"
    return f"{mean_top1(records):.2f}", f"{counted(len(records), 'student')} in {counted(len(pooled), 'cell')}"


def seconds_of(records: Iterable[Record]) -> float:
    """Returns the seconds of students and distilled sets. A set that several students share counts once."""
    records = list({record.name: record for record in records}.values())
    sets = {tuple(record.keys.get("distill", ())): record.distill_seconds or 0.0 for record in records}
    return sum(record.seconds["evaluate"] for record in records) + sum(sets.values())


def trials_text(candidates: Iterable[Candidate]) -> str:
    """Formats every point of a search: method, settings, top-1 on the held-out images, numbers of the trials."""
    rows = []
    for candidate in candidates:
        top1, counts = ("failed", "") if candidate.top1 is None else _result(candidate.records)
        numbers = ", ".join(map(str, candidate.trials))
        row = {"method": candidate.method, "settings": candidate.settings, "held-out top-1": top1}
        rows.append({**row, "n": counts, "trials": numbers})
    return format_rows(rows, ("method", "settings", "held-out top-1"))


def tuning_text(candidates: Sequence[Candidate], winners: Mapping[str, Candidate], records: Sequence[Record]) -> str:
    """Formats the table of a search: a row for each method.

    Args:
        candidates: Every point of the search.
        winners: The winners by method.
        records: The records of the winners on the validation images.
    """
    rows = []
    for method in dict.fromkeys(candidate.method for candidate in candidates):
        own = [candidate for candidate in candidates if candidate.method == method]
        row = {"method": method, "trials": str(sum(len(each.trials) for each in own)), "winner": "failed"}
        row |= dict.fromkeys(("held-out top-1", "n held-out", "validation top-1", "n validation"), "")
        if winner := winners.get(method):
            row["winner"] = winner.settings
            row["held-out top-1"], row["n held-out"] = _result(winner.records)
            if final := [record for record in records if record.method == method]:
                row["validation top-1"], row["n validation"] = _result(final)
        row["search s"] = f"{seconds_of(record for each in own for record in each.records):.1f}"
        rows.append(row)
    return format_rows(rows, ("method", "winner", "held-out top-1", "validation top-1"))
