"""Scores across label regimes: improvement over random, hard-label recovery and the label-robust score."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddbench.core.canonical import canonical_json
from ddbench.core.text import value_text
from ddbench.evaluators.base import DistilledSetProtocol
from ddbench.evaluators.protocols import FullData, HardLabels
from ddbench.methods.random import Random
from ddbench.results import records
from ddbench.results.conditions import (
    dataset_identity,
    distillation_config,
    evaluation_conditions,
    newest_by_student,
    student_key,
    training_recipe,
)
from ddbench.results.labels import changed_settings, disambiguate_labels, recipe_label
from ddbench.results.mixtures import by_evaluate_key, describe_mixture
from ddbench.results.pooling import Pooled, pool
from ddbench.results.records import Record

if TYPE_CHECKING:
    import pandas as pd

# Conditions that a student and its reference must share: names in `_Student.conditions`.
DATA_AND_STUDENT = ("fingerprint", "image size", "stored images", "holdout", "student", "device", "numerics")
SHARED_WITH_RANDOM = (*DATA_AND_STUDENT, "IPC", "protocol", "protocol settings", "teacher")
SHARED_WITH_HARD = (*DATA_AND_STUDENT, "IPC", "shared protocol settings")
SHARED_WITH_FULL = (*DATA_AND_STUDENT, "training recipe")

_SHARED_SETTINGS = tuple(DistilledSetProtocol.model_fields)

SCORE_COLUMNS = (
    *(
        "method",
        "recipe",
        "settings",
        "dataset",
        "image_size",
        "holdout",
        "ipc",
        "student",
        "protocol",
        "regime",
        "teacher",
    ),
    *("top1", "deviation", "n", "sets", "random", "random_n", "ior"),
    *("hard", "hard_n", "full", "full_n", "hlr", "lrs", "missing"),
    *("mixture", "records"),
)


def scores(frame: pd.DataFrame, regime: str | None = None) -> pd.DataFrame:
    """Computes improvement over random (ior), hard-label recovery (hlr) and label-robust score (lrs).

    ::

        ior = top1 - random   random real images; same IPC, protocol, its settings, teacher and student seeds
        hlr = full - hard     `full-data` with the same recipe on the whole training set; `hard` on the same sets
        lrs = (e^a - e^-1) / (e - e^-1),  a = 0.5 ior - 0.5 hlr as fractions; in [0, 1], 0.269 at a = 0

    ior and hlr are in percentage points. A smaller hlr is better. Every student seed of a row (for `hard`: every set
    and seed) needs a reference. Further references are ignored.

    Source: DD-Ranking (arXiv 2505.13300), with its weight w = 0.5. Differences: one fixed protocol and the last epoch,
    while DD-Ranking searches a learning rate and takes the best epoch on the test set; means over all students, while
    DD-Ranking takes the difference of each run.

    Args:
        frame: Records, from `records.load`.
        regime: Label regime of the rows: fkd, soft or hard. None: all.

    Returns:
        One row per group of students that differ only in seeds and sets. `top1`, its sample standard `deviation` (NaN
        for one value), `random`, `hard` and `full` are in percent. They are averaged over the students of each set,
        then over the sets (`results.pooling`); `n`, `random_n`, `hard_n` and `full_n` count the students, `sets` the
        distilled sets. A score without reference is NaN; `missing` then names the conditions that differ in the closest
        record. `settings` holds the settings that the user changed, and further conditions where rows would be equal
        without them. `mixture` names the conditions in which the averaged records differ, and other top-1 of the same
        students, of which the newest record counts (`results.mixtures`).
    """
    import pandas as pd

    students = [_student(record) for record in records.from_frame(frame)]
    groups: dict[str, list[_Student]] = {}
    for student in students:
        if student.record.ipc is not None and regime in (None, student.regime):
            groups.setdefault(student.group, []).append(student)
    by_key = by_evaluate_key(student.record for student in students)
    rows = [_score_row(_distinct(group), students, by_key) for group in groups.values()]
    _distinguish(rows, [group[0].record for group in groups.values()])
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def _distinguish(rows: list[dict[str, Any]], examples: list[Record]) -> None:
    """Adds to the settings of rows that look equal what distinguishes them."""
    visible = SCORE_COLUMNS[: SCORE_COLUMNS.index("top1")]
    labels = [canonical_json([row[name] for name in visible]) for row in rows]
    facts = [{**distillation_config(record), **evaluation_conditions(record)} for record in examples]
    for row, label, distinct in zip(rows, labels, disambiguate_labels(labels, facts, examples), strict=True):
        row["settings"] = ", ".join(filter(None, (row["settings"], distinct[len(label) :].removeprefix(", ").strip())))


@dataclass(frozen=True)
class _Student:
    """One record with its conditions. Students with an equal `group` differ only in seeds and sets."""

    record: Record
    conditions: Mapping[str, str | None]
    group: str

    @property
    def regime(self) -> str:
        return self.record.metrics.regime

    @property
    def key(self) -> tuple[str, int]:
        return student_key(self.record)

    @property
    def seed(self) -> int:
        return self.key[1]


def _student(record: Record) -> _Student:
    configuration, facts = record.configuration, evaluation_conditions(record)
    stored = {"split": 0.0, **configuration["data"]}
    data = {name: value for name, value in stored.items() if name not in ("image_size", "holdout")}
    settings = configuration["evaluator_settings"]
    conditions = {
        "fingerprint": record.data.get("fingerprint"),
        "image size": str(record.image_size),
        "stored images": canonical_json(data),
        "holdout": str(record.holdout),
        "student": f"{record.student} {facts['student_stem']}",
        "device": facts["device"],
        "numerics": facts["numerics"],
        "IPC": str(configuration["ipc"]),
        "protocol": facts["evaluator"],
        "protocol settings": canonical_json(settings),
        "shared protocol settings": canonical_json({name: settings.get(name) for name in _SHARED_SETTINGS}),
        # Use the digest of the weights, because the same teacher can have several cache keys.
        "teacher": "none" if record.metrics.regime == "hard" else record.teacher.get("digest"),
        "training recipe": canonical_json(training_recipe(record)),
    }
    method = {name: configuration[name] for name in ("method_settings", "statistics", "distill")}
    made_by = [record.method, record.method_version, method, record.teacher.get("key")]
    group = [dataset_identity(record), *made_by, conditions]
    return _Student(record, conditions, canonical_json(group))


def _distinct(students: Sequence[_Student]) -> list[_Student]:
    """Keeps the newest record of each student."""
    newest = newest_by_student(student.record for student in students)
    return [student for student in students if newest[student.key] is student.record]


def _score_row(
    group: list[_Student], students: list[_Student], by_key: Mapping[str, Sequence[Record]]
) -> dict[str, Any]:
    record, regime = group[0].record, group[0].regime
    averaged = [student.record for student in group]
    random, no_random = _references(
        "random", group, [s for s in students if s.record.method == Random.name], SHARED_WITH_RANDOM, lambda s: s.seed
    )
    hard, no_hard = group, ""
    if regime != "hard":
        candidates = [s for s in students if (s.record.method, s.record.evaluator) == (record.method, HardLabels.name)]
        hard, no_hard = _references("hard", group, candidates, SHARED_WITH_HARD, lambda s: s.key)
    full, no_full = _references(
        "full", group, [s for s in students if s.record.evaluator == FullData.name], SHARED_WITH_FULL, lambda s: s.seed
    )
    pooled = _pool(group)
    top1, ior, hlr = pooled.mean, pooled.mean - _mean(random), _mean(full) - _mean(hard)
    return {
        "method": record.method,
        "recipe": recipe_label(record),
        "settings": ", ".join(f"{name}={value_text(value)}" for name, value in changed_settings(record).items()),
        "dataset": record.dataset,
        "image_size": record.image_size,
        "holdout": record.holdout,
        "ipc": record.ipc,
        "student": record.student,
        "protocol": group[0].conditions["protocol"],
        "regime": regime,
        "teacher": record.teacher.get("name", ""),
        "top1": top1,
        "deviation": math.nan if pooled.deviation is None else pooled.deviation,
        "n": pooled.students,
        "sets": pooled.sets,
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
        "mixture": describe_mixture(averaged, by_key),
        "records": [one.name for one in averaged],
    }


def _references(
    name: str,
    group: list[_Student],
    candidates: list[_Student],
    shared: tuple[str, ...],
    pairing: Callable[[_Student], Hashable],
) -> tuple[list[_Student], str]:
    """Returns the candidates that share conditions and a pair with `group`; or none, and the reason."""
    if not candidates:
        return [], f"{name}: no record"
    differences = [_differences(group[0], candidate, shared) for candidate in candidates]
    references = [candidate for candidate, names in zip(candidates, differences, strict=True) if not names]
    if not references:
        closest: list[str] = min(differences, key=len)
        return [], f"{name}: other {', '.join(closest)}"
    required = {pairing(student): student for student in group}
    available = {pairing(reference) for reference in references}
    unpaired = [student for pair, student in required.items() if pair not in available]
    if unpaired:
        seeds = ", ".join(str(seed) for seed in sorted({student.seed for student in unpaired}))
        return [], f"{name}: no record of student seed {seeds}" + (" on the same set" if name == "hard" else "")
    references = _distinct([reference for reference in references if pairing(reference) in required])
    if len({(s.record.method_version, s.record.evaluator_version) for s in references}) > 1:
        return [], f"{name}: records of several versions"
    return references, ""


def _differences(one: _Student, other: _Student, names: tuple[str, ...]) -> list[str]:
    """Returns the conditions that one of the records lacks, then the conditions that differ."""
    pairs = {name: (one.conditions[name], other.conditions[name]) for name in names}
    unknown = [f"{name} (not recorded)" for name, pair in pairs.items() if None in pair]
    return unknown + [name for name, pair in pairs.items() if None not in pair and pair[0] != pair[1]]


def _pool(students: list[_Student]) -> Pooled:
    values = [student.record.metrics.top1_last for student in students]
    return pool(values, [student.record.distilled_digest for student in students])


def _mean(students: list[_Student]) -> float:
    return _pool(students).mean if students else math.nan


def _label_robust(alpha: float) -> float:
    """Maps `alpha` in [-1, 1] to [0, 1] on an exponential scale."""
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
