"""Decides which records are comparable. Tables, figures, scores and summaries average the records of a `Pool`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

from pydantic import ValidationError

from ddbench.api.settings import TrainingSettings
from ddbench.config.datasets import FINGERPRINTED, refers_to
from ddbench.config.schema import TeacherConfig
from ddbench.core.canonical import canonical_json
from ddbench.core.errors import DDBenchError
from ddbench.results.provenance import versions
from ddbench.results.records import Record

Facts = dict[str, Any]
"""Settings and other properties of a record by dotted name."""
INSTALLED = "installed"
"""Value of the facts `numerics` and `distill numerics` if no recorded version differs from the installed one."""
STUDENT_NUMERICS = ("models", "training", "views")
"""Parts of the core in `ddbench.core.versions` on which the top-1 of every student depends."""


def distillation_config(record: Record) -> Facts:
    """Returns the dependencies of a distilled set, without the real images, IPC and seeds.

    The teacher and its statistics are included only if the method uses them.
    """
    configuration = record.configuration
    facts: Facts = {"method": record.method, "method version": record.method_version}
    facts |= _prefixed("method", configuration["method_settings"])
    facts["distill.jpeg_quality"] = configuration["distill"]["jpeg_quality"]
    if "statistics" in record.keys:
        facts |= _prefixed("statistics", configuration["statistics"])
        facts["teacher"] = teacher_identity(record)
        facts |= _other_teachers(record, "method")
    return facts | {"distill numerics": other_numerics(record, lambda part: part not in STUDENT_NUMERICS) or INSTALLED}


def evaluation_conditions(record: Record) -> Facts:
    """Returns the conditions that comparable students share, without their distilled sets and seeds."""
    configuration = record.configuration
    runtime = configuration["runtime"]
    return {
        "dataset": dataset_identity(record),
        "classes": record.classes,
        **data_settings(record),
        "ipc": record.ipc,
        "evaluator": f"{record.evaluator} v{record.evaluator_version}",
        **_prefixed("evaluator", configuration["evaluator_settings"]),
        "student": record.student,
        "student_stem": configuration["student_stem"],
        # Hard labels do not depend on a teacher, although the images may.
        "teacher": None if record.metrics.regime == "hard" else teacher_identity(record),
        **_other_teachers(record, "evaluator"),
        # On the whole training set, a student is trained as a teacher is.
        **(training_recipe(record) if record.ipc is None else {}),
        "device": f"{runtime['device'].partition(':')[0]} {runtime['precision']}",
        "numerics": other_numerics(record, lambda part: part in STUDENT_NUMERICS) or INSTALLED,
    }


def teacher_identity(record: Record) -> str | None:
    """Returns what identifies the teacher: the digest of its weights, or its cache key in a record without it.

    The same weights can have several keys (trained here, or loaded from a file), and one key can have several weights
    (trained with other numbers of threads).
    """
    return record.teacher.get("digest") or record.teacher.get("key")


def _other_teachers(record: Record, user: str) -> Facts:
    """Returns the digests of the teachers that the method or the protocol uses besides the configured one."""
    others = record.teacher.get("others", {})
    return {f"{user} teacher {name}": facts["digest"] for name, facts in others.items() if user in facts["used_by"]}


def other_numerics(record: Record, selects: Callable[[str], bool] = lambda part: True) -> str:
    """Returns the selected versions in `ddbench.core.versions` that differ from the installed ones."""
    installed = _installed_numerics()
    recorded = record.versions.get("numerics", "").split()
    return " ".join(part for part in recorded if part not in installed and selects(part.partition("=")[0]))


@cache
def _installed_numerics() -> frozenset[str]:
    return frozenset(versions()["numerics"].split())


def dataset_identity(record: Record) -> str:
    """Returns what identifies the real images: their fingerprint, or the name of the dataset in a record without it.

    Copies of one folder under several names are one dataset, and several folders of one name are several.
    """
    return str(record.data.get("fingerprint") or record.dataset)


def dataset_names(records: Iterable[Record]) -> dict[str, str]:
    """Returns the name of each dataset by its identity.

    Of several names, a registered one comes before a folder's, and then that of the most records.
    """
    counts = Counter((dataset_identity(record), record.dataset) for record in records)
    names: dict[str, str] = {}
    for identity, name in sorted(counts, key=lambda pair: (pair[1].startswith(FINGERPRINTED), -counts[pair], pair[1])):
        names.setdefault(identity, name)
    return names


def recorded_datasets(references: Iterable[str], records: Sequence[Record]) -> tuple[str, ...]:
    """Returns the names in `dataset_names` of the datasets on a command line. Those without records are unchanged."""
    names = dataset_names(records)
    resolved: dict[str, None] = {}
    for reference in references:
        matching = {names[dataset_identity(record)] for record in records if refers_to(reference, record.dataset)}
        resolved |= dict.fromkeys(sorted(matching) or [reference])
    return tuple(resolved)


def data_settings(record: Record) -> Facts:
    """Returns how the real images were stored and split."""
    return _prefixed("data", {"holdout": 0.0, "split": 0.0, **record.configuration["data"]})


def training_recipe(record: Record) -> Facts:
    """Returns how the teacher was trained, without its network, seed and checkpoint."""
    teacher = record.configuration["teacher"]
    own = TeacherConfig.model_fields.keys() - TrainingSettings.model_fields.keys()
    return _prefixed("teacher", {name: value for name, value in teacher.items() if name not in own})


def student_key(record: Record) -> tuple[str, int]:
    """Returns the distilled set and the seed of a student. Records with equal keys and conditions are one student."""
    return record.distilled_digest, record.seed + record.student_seed


def seeds(record: Record) -> tuple[int, int]:
    """Returns the seeds of the distilled set and of the student."""
    return record.seed + record.repeat, record.seed + record.student_seed


STUDENT_KEYS = (student_key, seeds)
"""Records of one pool with an equal value of either key are one student."""


def num_changes(record: Record) -> tuple[int, int]:
    """Returns the numbers of recipes and of changed settings. The variant with the fewest is the plainest."""
    return len(record.recipes), len(record.configuration.get("changed", ()))


@dataclass(frozen=True)
class Pool:
    """Records that may be averaged: they differ only in seeds, and in conditions that `results.mixtures` names.

    Two records belong to one pool if their sets have equal dependencies (`distillation_config`) and their students
    equal conditions (`evaluation_conditions`). So a pool has one set of real images, one teacher, and one version of
    each part of the core's numerical code. Compilation, threads, processes, packages and the model of the device change
    numbers by rounding: they do not separate pools, because all runs of a grid on two machines would then be apart.

    Attributes:
        config: The dependencies of the sets.
        conditions: The conditions of the students.
        records: The records.
    """

    config: Facts
    conditions: Facts
    records: list[Record]

    @cached_property
    def facts(self) -> Facts:
        """The conditions and the dependencies by name."""
        return {**self.conditions, **self.config}

    @cached_property
    def example(self) -> Record:
        """The first record with the fewest recipes and changed settings. Recipes can have equal settings."""
        return min(self.records, key=num_changes)

    @cached_property
    def students(self) -> list[Record]:
        """The records that count in a mean: `distinct_students` of all records."""
        return distinct_students(self.records)


def pools(records: Iterable[Record]) -> list[Pool]:
    """Groups records into pools. This is the one definition of records that have the same setting.

    Settings that a record lacks, because they are newer, have their default.
    """
    records = list(records)
    configs = _with_defaults("method", records, map(distillation_config, records))
    every = _with_defaults("evaluator", records, map(evaluation_conditions, records))
    by_facts: dict[str, Pool] = {}
    for record, config, conditions in zip(records, configs, every, strict=True):
        pool = by_facts.setdefault(canonical_json([config, conditions]), Pool(config, conditions, []))
        pool.records.append(record)
    return list(by_facts.values())


def _with_defaults(kind: Literal["method", "evaluator"], records: list[Record], facts: Iterable[Facts]) -> list[Facts]:
    """Adds the defaults of the settings that some records of a method or protocol lack.

    They are known if it is installed in the version of the records.
    """
    facts = list(facts)
    numbers: dict[tuple[str, str], list[int]] = {}
    for number, record in enumerate(records):
        item = (getattr(record, kind), getattr(record, f"{kind}_version"))
        numbers.setdefault(item, []).append(number)
    for item, members in numbers.items():
        if len({tuple(sorted(facts[number])) for number in members}) > 1:
            defaults = _defaults(kind, *item)
            for number in members:
                facts[number] = {**defaults, **facts[number]}
    return facts


@cache
def _defaults(kind: Literal["method", "evaluator"], name: str, version: str) -> Facts:
    from ddbench.registry.registry import PluginRegistry

    registry = PluginRegistry()
    try:
        model = registry.distiller(name) if kind == "method" else registry.evaluator(name)
        return _prefixed(kind, model().model_dump(mode="json")) if model.version == version else {}
    except (DDBenchError, ValidationError):
        return {}


def distinct_students(records: Iterable[Record]) -> list[Record]:
    """Returns the newest record of each student, because several records of a student are one measurement.

    Two records are one student if student seed and images are equal, whatever the seeds of their sets, or if both
    seeds are equal, although rounding made other images.

    Args:
        records: Records of one pool.

    Returns:
        The records, in the given order.
    """
    records = list(records)
    newest = sorted(records, key=lambda record: record.created)
    for key in STUDENT_KEYS:
        newest = list({key(record): record for record in newest}.values())
    kept = set(map(id, newest))
    return [record for record in records if id(record) in kept]


def _prefixed(section: str, settings: Mapping[str, Any]) -> Facts:
    return {f"{section}.{name}": value for name, value in settings.items()}
