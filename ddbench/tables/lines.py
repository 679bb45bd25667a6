"""One line of a table's tidy frame: a cell, its setting, and the record that fills it."""

from __future__ import annotations

from typing import Any

from ddbench.api.table import Cell, TableSpec
from ddbench.config.experiment import Experiment
from ddbench.config.schema import TeacherConfig
from ddbench.core.text import value_text
from ddbench.pipeline.keys import teacher_label
from ddbench.pipeline.request import Request
from ddbench.results import published
from ddbench.results.records import Record, measured_on
from ddbench.storage.cache import key_of

FRAME_COLUMNS = (
    *("table", "row", "method", "dataset", "classes", "ipc", "student", "evaluator", "protocol"),
    *("image_size", "recipe", "teacher", "device", "measured_on", "numerics", "setting"),
    *("repeat", "student_seed", "state", "reason"),
    *("top1", "top1_selected", "transport_cost", "distill_seconds", "student_seconds", "seconds_per_iteration"),
    *("record", "differs"),
)
SETTING_COLUMNS = ("dataset", "classes", "image_size", "recipe", "teacher", "device", "measured_on", "numerics", "setting")
"""What must be equal for numbers to stand in one block. `setting` is a digest of all that the others name in part."""
SHARED = ("data", "teacher", "runtime")
"""Sections of the configuration that belong to the setting; the others belong to the cell."""


def frame_row(
    spec: TableSpec,
    cell: Cell,
    request: Request,
    experiment: Experiment | None = None,
    state: str = "",
    reason: str = "",
    record: Record | None = None,
    classes: int | None = None,
    numerics: str = "",
    apart: str = "",
) -> dict[str, Any]:
    """One row of the tidy frame: the cell under `experiment`'s setting, filled by `record` where there is one.

    `numerics` says which versions of the core's numerics are not the installed ones; `apart` tells settings apart
    that have the same configuration.
    """
    line: dict[str, Any] = {
        "table": spec.name,
        "row": cell.row,
        "method": cell.method,
        "dataset": cell.dataset,
        "classes": classes,
        "ipc": cell.ipc,
        "student": cell.student or "",
        "evaluator": cell.evaluator or "",
        "state": state or ("measured" if record else "never run"),
        "reason": reason,
    }
    if experiment is not None:
        line |= _of_experiment(experiment, cell, request, classes)
        line |= {"numerics": numerics, "setting": _digest(experiment, numerics, apart)}
    if record is not None:
        line |= _of_record(record)
    return line


def _of_experiment(experiment: Experiment, cell: Cell, request: Request, classes: int | None) -> dict[str, Any]:
    changed = tuple(name for name in experiment.changed if name not in cell.settings)
    runtime = experiment.runtime
    return {
        "student": experiment.student,
        "evaluator": experiment.evaluator_name,
        "protocol": f"{experiment.evaluator_name} v{experiment.evaluator.version}",
        "image_size": experiment.data.image_size,
        "recipe": " --set ".join(["+".join(experiment.recipes), *_changes(experiment, request)]),
        "teacher": teacher_label(experiment.teacher),
        "device": f"{runtime.device.partition(':')[0]} {runtime.precision}",
        "measured_on": measured_on(experiment.data.holdout),
        "repeat": experiment.repeat,
        "student_seed": experiment.student_seed,
        "differs": published.difference_from_paper(experiment.model_copy(update={"changed": changed}), classes) or "",
    }


def _changes(experiment: Experiment, request: Request) -> list[str]:
    """What the recipes do not say: `teacher.epochs=5`, and all that was asked for of methods and protocols.

    A teacher's checkpoint and the device are named elsewhere.
    """
    found = []
    for path in dict.fromkeys(experiment.changed):
        section, _, name = path.partition(".")
        if section in ("data", "teacher") and name != "checkpoint":
            found.append(f"{path}={value_text(getattr(getattr(experiment, section), name))}")
    return found + [text for text in request.assignments if text.partition(".")[0].strip() not in SHARED]


def _digest(experiment: Experiment, numerics: str, apart: str) -> str:
    shared = {name: getattr(experiment, name).model_dump(mode="json") for name in SHARED}
    shared["teacher"]["checkpoint"] = checkpoint_name(experiment.teacher)
    shared["runtime"]["device"] = shared["runtime"]["device"].partition(":")[0]
    del shared["runtime"]["compile"]  # it changes numbers by rounding alone
    return key_of({**shared, "recipes": experiment.recipes, "numerics": numerics, "apart": apart})[:8]


def checkpoint_name(teacher: TeacherConfig) -> str:
    """The name of the teacher's checkpoint without its folder, as records have it; empty without one."""
    return teacher.checkpoint.name if teacher.checkpoint else ""


def _of_record(record: Record) -> dict[str, Any]:
    metrics = record.metrics
    return {
        "repeat": record.repeat,
        "student_seed": record.student_seed,
        "top1": metrics.top1_last,
        "top1_selected": metrics.top1_selected,
        "transport_cost": record.feature_transport_cost,
        "distill_seconds": record.seconds.get("distill"),
        "student_seconds": record.seconds["evaluate"],
        "seconds_per_iteration": record.seconds_per_iteration,
        "record": record.name,
    }
