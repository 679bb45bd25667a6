"""Scores of DD-Ranking: improvement over random, hard-label recovery, label- and augmentation-robust score."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from ddbench.core.canonical import canonical_json
from ddbench.core.text import counted, value_text
from ddbench.evaluators.base import DistilledSetProtocol
from ddbench.evaluators.protocols import FullData, HardLabels
from ddbench.methods.random import Random
from ddbench.results.conditions import Facts, Pool, distinct_students, pools, seeds, student_key, training_recipe
from ddbench.results.frames import from_frame
from ddbench.results.labels import changed_settings, disambiguate_labels, recipe_label
from ddbench.results.mixtures import describe_mixture
from ddbench.results.pooling import pool_top1
from ddbench.results.records import Record

if TYPE_CHECKING:
    import pandas as pd

DATA_AND_STUDENT = ("dataset", "classes", "student", "student_stem", "device", "numerics")
"""Conditions that a student shares with every reference, with those of the section `data`."""
SHARED_SETTINGS = tuple(f"evaluator.{name}" for name in DistilledSetProtocol.model_fields)
"""Settings that all protocols for distilled sets have."""
CUTMIX = "evaluator.cutmix_alpha"
"""The setting that `full-data` shares with them."""
AUGMENTATION, NO_AUGMENTATION = "evaluator.augmentation", "none"
"""The setting that turns the augmentation of a protocol off, and its value."""
WEIGHT = 0.5
"""DD-Ranking's w and gamma: the weight of the improvement over random, and of the students with augmentation."""

SCORE_COLUMNS = (
    *("method", "recipe", "settings", "dataset", "image_size", "holdout"),
    *("ipc", "student", "protocol", "regime", "teacher"),
    *("top1", "deviation", "n", "sets", "random", "random_n", "ior"),
    *("hard", "hard_n", "full", "full_n", "hlr", "lrs_raw", "lrs"),
    *("unaugmented", "unaugmented_n", "unaugmented_random", "unaugmented_random_n", "ars_raw", "ars"),
    *("missing", "mixture", "records"),
)


def normalise_score(points: float) -> float:
    """Maps a raw score to [0, 1] on the exponential scale of DD-Ranking: (e^x - e^-1) / (e - e^-1).

    Args:
        points: The raw score in percentage points, -100 to 100; x is this number as a fraction.

    Example:
        >>> [round(normalise_score(points), 3) for points in (-100, 0, 100)]
        [0.0, 0.269, 1.0]
    """
    return (math.exp(points / 100) - math.exp(-1)) / (math.e - math.exp(-1))


def without_augmentation(frame: pd.DataFrame) -> pd.Series[bool]:
    """Returns which records of a frame from `to_frame` are of students without augmentation."""
    settings = frame["configuration"].map(lambda configuration: configuration["evaluator_settings"])
    return settings.map(lambda values: values.get(AUGMENTATION.partition(".")[2]) == NO_AUGMENTATION)


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Computes the scores of DD-Ranking: ior, hlr, label-robust score (lrs) and augmentation-robust score (ars).

    ::

        ior     = top1 - random    random real images; same IPC, protocol, its settings, teacher and student seeds
        hlr     = full - hard      `full-data`, same recipe and CutMix, on all training images; `hard` on the same sets
        lrs_raw = w ior - (1 - w) hlr
        ars_raw = g ior + (1 - g) (unaugmented - unaugmented_random)    both with evaluator.augmentation=none
        lrs, ars = (e^x - e^-1) / (e - e^-1) of the raw score as a fraction x; in [0, 1], 0.269 at 0

    ior, hlr, lrs_raw and ars_raw are in percentage points. A smaller hlr is better. Every student seed of a row (for
    `hard` and `unaugmented`: every set and seed) needs a reference. Further references are ignored. The sets of `hard`
    are those of the row; the sets of `unaugmented` have the settings and the seeds of those of the row, and their
    images are equal or differ by rounding. A row without augmentation has no ars.

    Source: DD-Ranking (arXiv 2505.13300; `NUS-HPC-AI-Lab/DD-Ranking:README.md` and `ddranking/metrics/`), with
    w = g = 0.5, the defaults of its code. Differences: one fixed protocol and the last epoch, while DD-Ranking searches
    a learning rate and takes the best of the epochs that it validates on the test set; scores of means over all
    students, while DD-Ranking averages the scores of single runs; fractions in the exponential, as its formulas have
    them, while its code inserts percentages. The augmentation is that of the row's protocol; that of DD-Ranking is set
    by the user (in its example of ars: crops, flips and CutMix, with the teacher's label of every view).

    Args:
        frame: Records, from `to_frame`.

    Returns:
        One row per group of students that differ only in seeds and sets. `top1`, its sample standard `deviation` (NaN
        for one value), `random`, `hard` and `full` are in percent. They are averaged over the students of each set,
        then over the sets (`results.pooling`); `n`, `random_n`, `hard_n`, `full_n`, `unaugmented_n` and
        `unaugmented_random_n` count the students, `sets` the distilled sets. A score without reference is NaN;
        `missing` then names the conditions that differ in the closest record. It names references of ars only if there
        are students without augmentation under the protocol of the row. `settings` holds the settings that the user
        changed, and further conditions where rows would be equal without them. `mixture` names the conditions in which
        the averaged records differ, and other top-1 of the same students, of which the newest record counts
        (`results.mixtures`). It also counts the sets of `unaugmented` with other images than those of the row.
    """
    import pandas as pd

    every = pools(from_frame(frame))
    groups = [pool for pool in every if pool.example.ipc is not None]
    return pd.DataFrame(score_rows(groups, every), columns=list(SCORE_COLUMNS))


def score_rows(groups: list[Pool], every: list[Pool]) -> list[dict[str, Any]]:
    """Computes the rows of `scores`.

    Args:
        groups: The students of each row.
        every: All pools, in which references are searched.
    """
    rows = [_score_row(pool, every) for pool in groups]
    _distinguish(rows, groups)
    return rows


def _distinguish(rows: list[dict[str, Any]], groups: list[Pool]) -> None:
    """Adds to the settings of rows that look equal what distinguishes them."""
    visible = SCORE_COLUMNS[: SCORE_COLUMNS.index("top1")]
    labels = [canonical_json([row[name] for name in visible]) for row in rows]
    examples, facts = [pool.example for pool in groups], [pool.facts for pool in groups]
    for row, label, distinct in zip(rows, labels, disambiguate_labels(labels, facts, examples), strict=True):
        row["settings"] = ", ".join(filter(None, (row["settings"], distinct[len(label) :].removeprefix(", ").strip())))


def _student_seed(record: Record) -> int:
    return student_key(record)[1]


def _shared_with_random(pool: Pool) -> Facts:
    return pool.conditions


def _shared_with_all(pool: Pool) -> Facts:
    names = [name for name in pool.conditions if name in DATA_AND_STUDENT or name.startswith("data.")]
    return {name: pool.conditions[name] for name in names}


def _shared_with_hard(pool: Pool) -> Facts:
    settings = {name: pool.conditions.get(name) for name in SHARED_SETTINGS}
    return {**_shared_with_all(pool), "ipc": pool.conditions["ipc"], **settings}


def _shared_with_full(pool: Pool) -> Facts:
    # Version 1 of `full-data`, and protocols that lack the setting, train without CutMix. `full-data` always crops.
    views = {name: pool.conditions.get(name) for name in (CUTMIX, AUGMENTATION)}
    return {**_shared_with_all(pool), **training_recipe(pool.example), **views}


def _shared_with_unaugmented(pool: Pool) -> Facts:
    return {name: value for name, value in pool.facts.items() if name != AUGMENTATION}


def _shared_with_unaugmented_random(pool: Pool) -> Facts:
    return {name: value for name, value in pool.conditions.items() if name != AUGMENTATION}


def _score_row(pool: Pool, every: list[Pool]) -> dict[str, Any]:
    record, group = pool.example, pool.students
    regime = record.metrics.regime
    random, no_random = _references(
        "random", pool, [p for p in every if p.example.method == Random.name], _shared_with_random, _student_seed
    )
    hard, no_hard = group, ""
    if regime != "hard":
        own = (record.method, HardLabels.name)
        candidates = [p for p in every if (p.example.method, p.example.evaluator) == own]
        hard, no_hard = _references("hard", pool, candidates, _shared_with_hard, student_key)
    full, no_full = _references(
        "full", pool, [p for p in every if p.example.evaluator == FullData.name], _shared_with_full, _student_seed
    )
    plain, plain_random, no_plain = _unaugmented_references(pool, every)
    pooled = pool_top1(group)
    top1, ior, hlr = pooled.mean, pooled.mean - _mean(random), _mean(full) - _mean(hard)
    lrs = WEIGHT * ior - (1 - WEIGHT) * hlr
    ars = WEIGHT * ior + (1 - WEIGHT) * (_mean(plain) - _mean(plain_random))
    return {
        "method": record.method,
        "recipe": recipe_label(record),
        "settings": ", ".join(f"{name}={value_text(value)}" for name, value in changed_settings(record).items()),
        "dataset": record.dataset,
        "image_size": record.image_size,
        "holdout": record.holdout,
        "ipc": record.ipc,
        "student": record.student,
        "protocol": pool.conditions["evaluator"],
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
        "lrs_raw": lrs,
        "lrs": normalise_score(lrs),
        "unaugmented": _mean(plain),
        "unaugmented_n": len(plain),
        "unaugmented_random": _mean(plain_random),
        "unaugmented_random_n": len(plain_random),
        "ars_raw": ars,
        "ars": normalise_score(ars),
        "missing": "; ".join(filter(None, (no_random, no_hard, no_full, *no_plain))),
        "mixture": "; ".join(filter(None, (describe_mixture(group, [pool]), _rebuilt_sets(group, plain)))),
        "records": [one.name for one in group],
    }


def _unaugmented_references(pool: Pool, every: list[Pool]) -> tuple[list[Record], list[Record], list[str]]:
    """Returns the students of the row's sets and of random images without augmentation, and why there are none."""
    if pool.conditions.get(AUGMENTATION) == NO_AUGMENTATION:
        return [], [], []
    protocol = [p for p in every if p.conditions["evaluator"] == pool.conditions["evaluator"]]
    candidates = [p for p in protocol if p.conditions.get(AUGMENTATION) == NO_AUGMENTATION]
    if not candidates:
        return [], [], []
    own, no_own = _references(
        "unaugmented",
        pool,
        [p for p in candidates if p.example.method == pool.example.method],
        _shared_with_unaugmented,
        seeds,
    )
    random, no_random = _references(
        "unaugmented random",
        pool,
        [p for p in candidates if p.example.method == Random.name],
        _shared_with_unaugmented_random,
        _student_seed,
    )
    return own, random, [no_own, no_random]


def _rebuilt_sets(group: list[Record], references: list[Record]) -> str:
    """Returns how many sets of the references have other images than those of the row."""
    other = {record.distilled_digest for record in references} - {record.distilled_digest for record in group}
    return f"unaugmented: {counted(len(other), 'set')} with other images" if other else ""


def _references(
    name: str,
    pool: Pool,
    candidates: list[Pool],
    shared: Callable[[Pool], Facts],
    pairing: Callable[[Record], Hashable],
) -> tuple[list[Record], str]:
    """Returns the students of the candidates that share conditions and a pair with `pool`; or none, and the reason."""
    if not candidates:
        return [], f"{name}: no record"
    conditions = shared(pool)
    differences = [_differences(conditions, shared(candidate)) for candidate in candidates]
    matching = [candidate for candidate, names in zip(candidates, differences, strict=True) if not names]
    if not matching:
        closest: list[str] = min(differences, key=len)
        return [], f"{name}: other {', '.join(closest)}"
    references = [record for candidate in matching for record in candidate.records]
    required = {pairing(student): student for student in pool.students}
    available = {pairing(reference) for reference in references}
    unpaired = [student for pair, student in required.items() if pair not in available]
    if unpaired:
        numbers = ", ".join(str(seed) for seed in sorted({_student_seed(student) for student in unpaired}))
        per_set = "" if pairing is _student_seed else " on the same set"
        return [], f"{name}: no record of student seed {numbers}{per_set}"
    references = distinct_students(reference for reference in references if pairing(reference) in required)
    if len({(record.method_version, record.evaluator_version) for record in references}) > 1:
        return [], f"{name}: records of several versions"
    return references, ""


def _differences(one: Facts, other: Facts) -> list[str]:
    """Returns the names of the facts that differ. The settings of another protocol are not named."""
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return [name for name in names if "evaluator" not in names or not name.startswith("evaluator.")]


def _mean(students: list[Record]) -> float:
    return pool_top1(students).mean if students else math.nan
