"""Decides which records are comparable, by the settings of the set, its evaluation, and the block of a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import ValidationError

from ddbench.api.settings import Section, TrainingSettings
from ddbench.config.datasets import FOLDER_PREFIX, refers_to
from ddbench.config.experiment import Experiment
from ddbench.config.schema import (
    DataConfig,
    DistillConfig,
    RuntimeConfig,
    StatisticsConfig,
    TeacherConfig,
    without_folders,
)
from ddbench.core.canonical import canonical_json, key_of
from ddbench.results.provenance import versions
from ddbench.results.records import Record

Facts = dict[str, Any]
"""Settings and other properties of a record by dotted name."""
STUDENT_NUMERICS = ("models", "training", "views")
"""Parts of the core in `ddbench.core.versions` on which the top-1 of every student depends."""
SETTING_SECTIONS = ("data", "teacher", "runtime")
"""Sections of the configuration that belong to a `Setting`. The other sections belong to a table's cell."""


def distillation_config(record: Record) -> Facts:
    """Returns the dependencies of a distilled set, without the real images, IPC and seeds.

    The teacher and its statistics are included only if the method uses them.
    """
    configuration = record.configuration
    facts = {"method": record.method, "method version": record.method_version}
    facts |= _prefixed("method", configuration["method_settings"])
    facts["distill.jpeg_quality"] = configuration["distill"]["jpeg_quality"]
    if "statistics" in record.keys:
        facts |= _prefixed("statistics", configuration["statistics"])
        facts["teacher"] = record.keys["teacher"][0]
    return facts


def evaluation_conditions(record: Record) -> Facts:
    """Returns the conditions that comparable students share, without their distilled sets and seeds."""
    configuration = record.configuration
    runtime = configuration["runtime"]
    numerics = [part for part in record.versions["numerics"].split() if part.partition("=")[0] in STUDENT_NUMERICS]
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
        "teacher": None if record.metrics.regime == "hard" else record.teacher.get("key"),
        "device": f"{_device_type(runtime['device'])} {runtime['precision']}",
        "numerics": " ".join(numerics),
    }


def dataset_identity(record: Record) -> str:
    """Returns what identifies the real images: their fingerprint, or the name of the dataset in a record without it.

    Copies of one folder under several names are one dataset, and several folders of one name are several.
    """
    return str(record.data.get("fingerprint") or record.dataset)


def dataset_names(records: Iterable[Record]) -> dict[str, str]:
    """Returns the name of each dataset by its identity. Of several names, a registered one comes before a folder's."""
    names: dict[str, str] = {}
    for record in sorted(records, key=lambda record: (record.dataset.startswith(FOLDER_PREFIX), record.dataset)):
        names.setdefault(dataset_identity(record), record.dataset)
    return names


def recorded_datasets(references: Iterable[str], records: Sequence[Record]) -> tuple[str, ...]:
    """Returns the names in `dataset_names` of the datasets on a command line. Those without records are unchanged."""
    names = dataset_names(records)
    found: dict[str, None] = {}
    for reference in references:
        matching = {names[dataset_identity(record)] for record in records if refers_to(reference, record.dataset)}
        found |= dict.fromkeys(sorted(matching) or [reference])
    return tuple(found)


def data_settings(record: Record) -> Facts:
    """Returns how the real images were stored and split."""
    return _prefixed("data", {"holdout": 0.0, "split": 0.0, **record.configuration["data"]})


def training_recipe(record: Record) -> Facts:
    """Returns how the teacher was trained, without its network, seed and checkpoint."""
    teacher = record.configuration["teacher"]
    own = TeacherConfig.model_fields.keys() - TrainingSettings.model_fields.keys()
    return {name: value for name, value in teacher.items() if name not in own}


def student_key(record: Record) -> tuple[str, int]:
    """Returns the distilled set and the seed of a student. Records with equal keys and conditions are one student."""
    return record.distilled_digest, record.seed + record.student_seed


def newest_by_student(records: Iterable[Record]) -> dict[tuple[str, int], Record]:
    """Returns the newest record of each student, because several records of a student are one measurement.

    Args:
        records: Records with equal conditions.

    Returns:
        The records by `student_key`, in the order in which the students occur first.
    """
    newest: dict[tuple[str, int], Record] = {}
    for record in records:
        key = student_key(record)
        if key not in newest or record.created >= newest[key].created:
            newest[key] = record
    return newest


def _prefixed(section: str, settings: Mapping[str, Any]) -> Facts:
    return {f"{section}.{name}": value for name, value in settings.items()}


def _device_type(device: str) -> str:
    return device.partition(":")[0]


@dataclass(frozen=True)
class Setting:
    """The conditions that the cells of a table's block share.

    Attributes:
        dataset: Name of the dataset.
        classes: Number of its classes.
        recipes: Recipes of the records.
        data: How the real images are stored and split.
        teacher: How the teacher is trained.
        runtime: Type of device and precision.
        numerics: Versions in `ddbench.core.versions` that differ from the installed ones.
    """

    dataset: str
    classes: int
    recipes: tuple[str, ...]
    data: DataConfig
    teacher: TeacherConfig
    runtime: RuntimeConfig
    numerics: str

    @classmethod
    def of(cls, record: Record) -> Setting:
        """Returns the setting of a record. Settings that the record lacks, because they are newer, have their default.

        Raises:
            ValidationError: If this version of ddbench cannot have the record's settings.
        """
        installed = set(versions()["numerics"].split())
        configuration = record.configuration
        runtime = configuration["runtime"]
        return cls(
            dataset=record.dataset,
            classes=record.classes,
            recipes=tuple(record.recipes),
            data=_section(DataConfig, canonical_json(configuration["data"])),
            teacher=_section(TeacherConfig, canonical_json(configuration["teacher"])),
            # `compile` and `threads` are left out: they change numbers by rounding only.
            runtime=RuntimeConfig(device=_device_type(runtime["device"]), precision=runtime["precision"]),
            numerics=" ".join(part for part in record.versions.get("numerics", "").split() if part not in installed),
        )


S = TypeVar("S", bound=Section)


@lru_cache(maxsize=1024)
def _section(model: type[S], text: str) -> S:
    """Validates a section once for all records that share it."""
    return model(**json.loads(text))


def group_by_setting(records: Iterable[Record]) -> Iterator[tuple[Setting, str, list[Record]]]:
    """Groups records by their settings, real images and given teachers.

    Records whose settings are invalid in this version of ddbench are left out.

    Yields:
        The setting; a text that distinguishes groups with an equal setting (fingerprint of the images, key of a
        teacher that was loaded from a file), often empty; the records.
    """
    groups: dict[Setting, list[Record]] = {}
    records = list(records)
    names = dataset_names(records)
    for record in records:
        try:
            setting = replace(Setting.of(record), dataset=names[dataset_identity(record)])
            groups.setdefault(setting, []).append(record)
        except (ValidationError, KeyError):
            continue
    for setting, group in groups.items():
        for fingerprint, same_images in _split(group, lambda record: record.data.get("fingerprint")):
            for teacher, same_teacher in _split(same_images, _loaded_teacher):
                yield setting, f"{fingerprint} {teacher}".strip(), same_teacher


def _split(group: list[Record], value_of: Callable[[Record], str | None]) -> list[tuple[str, list[Record]]]:
    """Splits records by a value. A record without the value belongs to each part."""
    values = dict.fromkeys(filter(None, map(value_of, group)))
    if len(values) < 2:
        return [("", group)]
    return [(value, [record for record in group if value_of(record) in (None, value)]) for value in values]


def _loaded_teacher(record: Record) -> str | None:
    return record.teacher.get("key") if record.configuration["teacher"].get("checkpoint") else None


def setting_digest(experiment: Experiment, numerics: str, distinction: str) -> str:
    """Returns a short digest of an experiment's setting, without its recipes.

    Args:
        experiment: The experiment.
        numerics: `Setting.numerics`.
        distinction: The text of `group_by_setting`.
    """
    sections = {name: getattr(experiment, name).model_dump(mode="json") for name in SETTING_SECTIONS}
    teacher = without_folders(experiment.teacher)
    sections["teacher"] = {**teacher.model_dump(mode="json"), "checkpoint": str(teacher.checkpoint or "")}
    sections["runtime"]["device"] = _device_type(sections["runtime"]["device"])
    for rounding in ("compile", "threads"):
        sections["runtime"].pop(rounding, None)
    return key_of({**sections, "numerics": numerics, "apart": distinction})[:8]


def is_result_of(record: Record, experiment: Experiment) -> bool:
    """Tests whether a record in the setting of an experiment is a result of it, for any seeds.

    Compares method, evaluator, their versions and settings, student, IPC, statistics and JPEG quality. Settings that
    the record lacks, because they are newer, have their default.
    """
    method, evaluator = experiment.method, experiment.evaluator
    expected = (experiment.method_name, method.version, experiment.evaluator_name, evaluator.version)
    actual = (record.method, record.method_version, record.evaluator, record.evaluator_version)
    if (*expected, experiment.student, experiment.ipc) != (*actual, record.student, record.ipc):
        return False
    configuration = record.configuration
    try:
        return (
            without_folders(method) == type(method)(**configuration["method_settings"])
            and without_folders(evaluator) == type(evaluator)(**configuration["evaluator_settings"])
            and experiment.statistics == StatisticsConfig(**configuration["statistics"])
            and experiment.distill.jpeg_quality == DistillConfig(**configuration["distill"]).jpeg_quality
        )
    except (ValidationError, KeyError):
        return False
