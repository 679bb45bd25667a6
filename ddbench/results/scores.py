"""Scores over the label regimes: what a distilled set is worth without its labels, and beyond random real images."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ddbench.api.settings import TrainingSettings
from ddbench.config.schema import TeacherConfig
from ddbench.evaluators.base import DistilledSetProtocol
from ddbench.storage.cache import canonical_json

if TYPE_CHECKING:
    import pandas as pd

# What two students must share to be compared: the names under which `_Student.terms` holds it.
WORLD = ("dataset", "fingerprint", "image size", "stored images", "holdout", "student", "device", "numerics")
AS_RANDOM = (*WORLD, "IPC", "protocol", "protocol settings", "teacher")
AS_HARD = (*WORLD, "IPC", "shared protocol settings")
AS_FULL = (*WORLD, "training recipe")
STUDENT_NUMERICS = ("models", "training", "views")
OF_THE_TEACHER = TeacherConfig.model_fields.keys() - TrainingSettings.model_fields.keys()

SCORE_COLUMNS = (
    *("method", "recipes", "dataset", "image_size", "holdout", "ipc", "student", "protocol", "regime", "teacher"),
    *("top1", "deviation", "n", "sets", "random", "random_n", "ior"),
    *("hard", "hard_n", "full", "full_n", "hlr", "lrs", "missing"),
)


def scores(frame: pd.DataFrame, regime: str | None = None) -> pd.DataFrame:
    """Improvement over random, hard-label recovery and label-robust score of every method in `records.load`'s frame.

    One row for the students that differ in nothing but their seeds and sets (of one `regime`: fkd, soft, hard,
    or all). `top1`, `deviation` (of a sample, NaN for one student), `random`, `hard`, `full` in percent, means
    over `n`, `random_n`, ... students; `sets` distilled sets.

        ior = top1 - random   random real images, same IPC, protocol and its settings, teacher and student seeds
        hlr = full - hard     `full-data` on the whole training set by the same recipe; `hard` on the very same sets
        lrs = (e^a - e^-1) / (e - e^-1),  a = 0.5 ior - 0.5 hlr, as fractions: in [0, 1], 0.269 at a = 0

    ior and hlr are in percentage points; a small hlr is good. Every student seed of a row (for `hard`: every
    set and seed) must have its reference; other references are left out. Where there is none, the score is NaN
    and `missing` says which term differs in the record that comes nearest.

    Source: DD-Ranking (arXiv 2505.13300), its weight w = 0.5. Departures: one fixed protocol and the last epoch,
    where it searches a learning rate and takes the best epoch on the test set; means over all students, where it
    takes differences run by run.
    """
    import pandas as pd

    students = [_student(row) for row in frame.to_dict("records")]
    groups: dict[str, list[_Student]] = {}
    for student in students:
        if student.ipc is not None and regime in (None, student.regime):
            groups.setdefault(student.group, []).append(student)
    return pd.DataFrame([_line(_distinct(group), students) for group in groups.values()], columns=list(SCORE_COLUMNS))


@dataclass(frozen=True)
class _Student:
    """One record as comparisons see it. `group` is equal for students that differ in seed and set alone."""

    method: str
    evaluator: str
    versions: tuple[str, str]
    regime: str
    ipc: int | None
    top1: float
    distilled: str
    seed: int
    terms: Mapping[str, str | None]
    group: str
    shown: Mapping[str, Any]


def _student(row: Mapping[Hashable, Any]) -> _Student:
    configuration = row["configuration"]
    ipc = None if configuration["ipc"] is None else int(configuration["ipc"])
    data = {name: value for name, value in configuration["data"].items() if name not in ("image_size", "holdout")}
    settings, teacher, runtime = (configuration[name] for name in ("evaluator_settings", "teacher", "runtime"))
    protocol = f"{row['evaluator']} v{row['evaluator_version']}"
    numerics = [part for part in row["versions"]["numerics"].split() if part.partition("=")[0] in STUDENT_NUMERICS]
    terms = {
        "dataset": row["dataset"],
        "fingerprint": row["data"].get("fingerprint"),
        "image size": str(row["image_size"]),
        "stored images": canonical_json(data),
        "holdout": str(row["holdout"]),
        "student": f"{row['student']} {configuration['student_stem']}",
        "device": f"{runtime['device'].partition(':')[0]} {runtime['precision']}",
        "numerics": " ".join(numerics),
        "IPC": str(ipc),
        "protocol": protocol,
        "protocol settings": canonical_json(settings),
        "shared protocol settings": canonical_json(
            {name: settings.get(name) for name in DistilledSetProtocol.model_fields}
        ),
        # Hard labels come from no teacher, whichever the images came from.
        "teacher": "none" if row["regime"] == "hard" else row["teacher"].get("digest"),
        "training recipe": canonical_json(
            {name: value for name, value in teacher.items() if name not in OF_THE_TEACHER}
        ),
    }
    made = {name: configuration[name] for name in ("method_settings", "statistics", "distill")}
    group = [row["method"], row["method_version"], made, terms, row["teacher"].get("key")]
    changed = " --set" if configuration.get("changed") else ""
    shown = {
        "method": row["method"],
        "recipes": "+".join(row["recipes"]) + changed,
        "dataset": row["dataset"],
        "image_size": row["image_size"],
        "holdout": row["holdout"],
        "ipc": ipc,
        "student": row["student"],
        "protocol": protocol,
        "regime": row["regime"],
        "teacher": row["teacher"].get("name", ""),
    }
    return _Student(
        method=row["method"],
        evaluator=row["evaluator"],
        versions=(row["method_version"], row["evaluator_version"]),
        regime=row["regime"],
        ipc=ipc,
        top1=row["top1_last"],
        distilled=row["distilled_digest"],
        seed=row["seed"] + row["student_seed"],
        terms=terms,
        group=canonical_json(group),
        shown=shown,
    )


def _distinct(students: Iterable[_Student]) -> list[_Student]:
    """The same student on the same set once: it is one measurement, however often it was asked for."""
    return list({(student.distilled, student.seed): student for student in students}.values())


def _line(mine: list[_Student], students: list[_Student]) -> dict[str, Any]:
    first = mine[0]
    random, no_random = _references(
        "random", mine, [one for one in students if one.method == "random"], AS_RANDOM, lambda one: one.seed
    )
    hard, no_hard = mine, ""
    if first.regime != "hard":
        of_method = [one for one in students if (one.method, one.evaluator) == (first.method, "hard")]
        hard, no_hard = _references("hard", mine, of_method, AS_HARD, lambda one: (one.distilled, one.seed))
    full, no_full = _references(
        "full", mine, [one for one in students if one.evaluator == "full-data"], AS_FULL, lambda one: one.seed
    )
    top1, ior, hlr = _mean(mine), _mean(mine) - _mean(random), _mean(full) - _mean(hard)
    return {
        **first.shown,
        "top1": top1,
        "deviation": stdev(one.top1 for one in mine) if len(mine) > 1 else math.nan,
        "n": len(mine),
        "sets": len({one.distilled for one in mine}),
        "random": _mean(random),
        "random_n": len(random),
        "ior": ior,
        "hard": _mean(hard),
        "hard_n": len(hard),
        "full": _mean(full),
        "full_n": len(full),
        "hlr": hlr,
        "lrs": _label_robust((0.5 * ior - 0.5 * hlr) / 100),
        "missing": "; ".join(filter(None, (no_random, no_hard, no_full))),
    }


def _references(
    name: str,
    mine: list[_Student],
    candidates: list[_Student],
    terms: tuple[str, ...],
    pair: Callable[[_Student], Hashable],
) -> tuple[list[_Student], str]:
    """The candidates that share `terms` with `mine` and belong to one of them by `pair`; or none, and why."""
    if not candidates:
        return [], f"{name}: no record"
    differing = [_differing(mine[0], one, terms) for one in candidates]
    found = [one for one, others in zip(candidates, differing, strict=True) if not others]
    if not found:
        closest: list[str] = min(differing, key=len)
        return [], f"{name}: other {', '.join(closest)}"
    wanted = {pair(one): one for one in mine}
    lacking = [one for key, one in wanted.items() if key not in {pair(other) for other in found}]
    if lacking:
        seeds = ", ".join(str(seed) for seed in sorted({one.seed for one in lacking}))
        return [], f"{name}: no record of student seed {seeds}" + (" on the same set" if name == "hard" else "")
    found = _distinct(one for one in found if pair(one) in wanted)
    if len({one.versions for one in found}) > 1:
        return [], f"{name}: records of several versions"
    return found, ""


def _differing(one: _Student, other: _Student, terms: tuple[str, ...]) -> list[str]:
    """The terms in which they differ, or of which one of them (an old record) says nothing."""
    unknown = [f"{name} (not recorded)" for name in terms if None in (one.terms[name], other.terms[name])]
    known = [name for name in terms if None not in (one.terms[name], other.terms[name])]
    return [*unknown, *(name for name in known if one.terms[name] != other.terms[name])]


def _mean(students: list[_Student]) -> float:
    return fmean(one.top1 for one in students) if students else math.nan


def _label_robust(alpha: float) -> float:
    """`alpha` in [-1, 1] on an exponential scale from 0 to 1."""
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
