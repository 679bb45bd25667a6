"""The settings of records: the conditions that the cells of a table's block share, and which records fill a cell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ddbench.api.distiller import Distiller
from ddbench.api.settings import Section
from ddbench.config.experiment import Experiment
from ddbench.config.given_sets import digest_in
from ddbench.config.schema import (
    DataConfig,
    DistillConfig,
    RuntimeConfig,
    StatisticsConfig,
    TeacherConfig,
    device_kind,
    with_digests,
    without_folders,
)
from ddbench.core.canonical import canonical_json, key_of
from ddbench.core.files import expand_user, file_digest
from ddbench.results.conditions import Pool, dataset_identity, dataset_names, other_numerics
from ddbench.results.records import Record

SETTING_SECTIONS = ("data", "teacher", "runtime")
"""Sections of the configuration that belong to a `Setting`. The other sections belong to a table's cell."""


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
        configuration = record.configuration
        runtime = configuration["runtime"]
        return cls(
            dataset=record.dataset,
            classes=record.classes,
            recipes=tuple(record.recipes),
            data=_section(DataConfig, canonical_json(configuration["data"])),
            teacher=_section(TeacherConfig, canonical_json(configuration["teacher"])),
            # `compile` and `threads` are left out: they change numbers by rounding only.
            runtime=RuntimeConfig(device=device_kind(runtime["device"]), precision=runtime["precision"]),
            numerics=other_numerics(record),
        )


S = TypeVar("S", bound=Section)


@lru_cache(maxsize=1024)
def _section(model: type[S], text: str) -> S:
    """Validates a section once for all records that share it."""
    return model(**json.loads(text))


def group_by_setting(every: Sequence[Pool]) -> Iterator[tuple[Setting, str, list[Pool]]]:
    """Groups pools of records by their settings, real images and teachers.

    A pool without a teacher belongs to every group whose other conditions, and first layers of students, it shares.
    Pools whose settings are invalid in this version of ddbench are left out.

    Yields:
        The setting; a text that distinguishes groups with an equal setting (fingerprint of the images, digest of the
        teacher), often empty; the pools.
    """
    names = dataset_names(record for pool in every for record in pool.records)
    groups: dict[tuple[Setting, str, str], list[Pool]] = {}
    without_teacher: list[tuple[Setting, str, Pool]] = []
    for pool in every:
        try:
            images = dataset_identity(pool.example)
            setting = replace(Setting.of(pool.example), dataset=names[images])
        except (ValidationError, KeyError):
            continue
        if teacher := pool.facts["teacher"]:
            groups.setdefault((setting, images, teacher), []).append(pool)
        else:
            without_teacher.append((setting, images, pool))
    for setting, images, pool in without_teacher:
        any_training, student = pool.example.ipc is not None, pool.example.student
        shared = [
            group
            for (other, *identities), group in groups.items()
            if identities[0] == images
            and other.teacher.stem_of(student) == pool.conditions["student_stem"]
            and (replace(other, teacher=setting.teacher) if any_training else other) == setting
        ]
        for group in shared or [groups.setdefault((setting, images, ""), [])]:
            group.append(pool)
    settings = [setting for setting, *_ in groups]
    for (setting, images, teacher), group in groups.items():
        yield setting, f"{images} {teacher}".strip() if settings.count(setting) > 1 else "", group


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
    sections["runtime"]["device"] = device_kind(sections["runtime"]["device"])
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
            with_digests(_with_recorded_set(method, record)) == type(method)(**configuration["method_settings"])
            and with_digests(evaluator) == type(evaluator)(**configuration["evaluator_settings"])
            and experiment.statistics == StatisticsConfig(**configuration["statistics"])
            and experiment.distill.jpeg_quality == DistillConfig(**configuration["distill"]).jpeg_quality
        )
    except (ValidationError, KeyError):
        return False


def _with_recorded_set(method: Distiller, record: Record) -> Distiller:
    """Returns a method that starts from a file with the record's name of this file: `set:DIGEST`."""
    reference = method.given_set()
    if reference is None or digest_in(reference) is not None:
        return method
    path = expand_user(Path(reference))
    if not path.is_file() or file_digest(path) != record.origin.get("sha256"):
        return method
    return method.model_copy(update={"initial": record.configuration["method_settings"].get("initial")})
