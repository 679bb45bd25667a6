"""One line of a table's tidy frame: a cell, its setting, and the record that fills it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ddbench import published
from ddbench.config import TeacherConfig
from ddbench.experiment import Experiment
from ddbench.keys import teacher_name
from ddbench.records import Record, measured_on
from ddbench.tables import Cell, TableSpec

COLUMNS = (
    *("table", "row", "method", "dataset", "classes", "ipc", "student", "evaluator", "protocol"),
    *("image_size", "recipe", "teacher", "device", "measured_on", "repeat", "student_seed", "state", "reason"),
    *("top1", "top1_selected", "transport_cost", "distill_seconds", "student_seconds", "seconds_per_iteration"),
    *("record", "differs"),
)
SETTING = ("dataset", "classes", "image_size", "recipe", "teacher", "device", "measured_on")
"""What must be equal for numbers to stand in one block."""


def line_of(
    spec: TableSpec,
    cell: Cell,
    experiment: Experiment | None,
    state: str = "",
    reason: str = "",
    record: Record | None = None,
    like: Record | None = None,
    classes: int | None = None,
) -> dict[str, Any]:
    """One row of the tidy frame; `like` lends its setting to a cell that was never run."""
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
    classes = record.classes if record else like.classes if like else classes
    if experiment is not None:
        line |= {"student": experiment.student, "evaluator": experiment.evaluator}
        line |= _of_experiment(experiment, cell, classes)
    shown = record or like
    if shown is not None:
        line |= _of_setting(shown, cell)
    if record is not None:
        line |= _of_record(record)
    return line


def _of_experiment(experiment: Experiment, cell: Cell, classes: int | None) -> dict[str, Any]:
    own = experiment.model_copy(update={"changed": tuple(n for n in experiment.changed if n not in cell.settings)})
    runtime = experiment.runtime
    return {
        "protocol": f"{experiment.evaluator} v{experiment.evaluator_settings.version}",
        "image_size": experiment.data.image_size,
        "recipe": _recipe(experiment.recipes, own.changed),
        "teacher": teacher_name(experiment.teacher),
        "device": f"{runtime.device} {runtime.precision}",
        "measured_on": measured_on(experiment.data.holdout),
        "differs": published.comparable(own, classes) or "",
    }


def _of_setting(record: Record, cell: Cell) -> dict[str, Any]:
    configuration = record.configuration
    changed = [name for name in configuration.get("changed", []) if name not in cell.settings]
    runtime = configuration["runtime"]
    return {
        "classes": record.classes,
        "image_size": record.image_size,
        "recipe": _recipe(record.recipes, changed),
        "teacher": teacher_name(TeacherConfig(**configuration["teacher"])),
        "device": f"{runtime['device']} {runtime['precision']}",
        "measured_on": measured_on(record.holdout),
    }


def _of_record(record: Record) -> dict[str, Any]:
    metrics = record.metrics
    return {
        "protocol": f"{record.evaluator} v{record.evaluator_version}",
        "repeat": record.repeat,
        "student_seed": record.student_seed,
        "top1": metrics.top1_last,
        "top1_selected": getattr(metrics, "top1_selected", None),
        "transport_cost": record.feature_transport_cost,
        "distill_seconds": record.seconds.get("distill"),
        "student_seconds": record.seconds["evaluate"],
        "seconds_per_iteration": record.seconds_per_iteration,
        "record": record.name,
    }


def _recipe(recipes: Iterable[str], changed: Iterable[str]) -> str:
    """`quick --set`; a teacher's checkpoint and the device are named elsewhere."""
    shown = [name for name in changed if name != "teacher.checkpoint" and not name.startswith("runtime.")]
    return "+".join(recipes) + (" --set" if shown else "")
