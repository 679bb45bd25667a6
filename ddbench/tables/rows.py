"""One row of a table's tidy frame: a cell, its setting, and the record that fills it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ddbench.api.table import Cell, TableSpec
from ddbench.config.datasets import dataset_name
from ddbench.config.experiment import Experiment
from ddbench.core.text import value_text
from ddbench.pipeline.keys import teacher_label
from ddbench.pipeline.request import Request
from ddbench.results import published
from ddbench.results.conditions import Pool
from ddbench.results.measures import measure_columns
from ddbench.results.mixtures import mixture, other_numbers
from ddbench.results.records import Record, measured_on
from ddbench.tables.settings import SETTING_SECTIONS, setting_digest

NUMBER_COLUMNS = (
    *("top1", "top1_selected", "transport_cost", "distill_seconds", "student_seconds", "seconds_per_iteration"),
)
"""The numbers of a record."""
FRAME_COLUMNS = (
    *("table", "row", "method", "dataset", "classes", "ipc", "student", "evaluator", "protocol"),
    *("image_size", "recipe", "teacher", "device", "measured_on", "numerics", "setting"),
    *("seed", "repeat", "student_seed", "set", "teacher_digest", "state", "reason"),
    *NUMBER_COLUMNS,
    *("record", "differs", "departures", "mixture", "caveat"),
)
SETTING_COLUMNS = (
    *("dataset", "classes", "image_size", "recipe", "teacher"),
    *("device", "measured_on", "numerics", "setting"),
)
"""The setting of a row: `recipe`, and `setting`, a digest of everything else, of which the others show parts."""
BLOCK_COLUMNS = tuple(name for name in SETTING_COLUMNS if name != "recipe")
"""Columns that are equal in one block of a printed table."""

Row = dict[str, Any]


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
    distinction: str = "",
) -> Row:
    """Returns one row of the tidy frame.

    Args:
        spec: The table.
        cell: The cell.
        request: The options.
        experiment: The experiment of the row, if known.
        state: Default: "measured" with a record, else "never run".
        reason: The reason of a failure.
        record: The record that fills the cell.
        classes: Number of classes, if known.
        numerics: Versions in `ddbench.core.versions` that differ from the installed ones.
        distinction: Text that distinguishes settings with the same configuration.
    """
    row: Row = {
        "table": spec.name,
        "row": cell.row,
        "method": cell.method,
        "dataset": dataset_name(experiment.dataset if experiment else cell.dataset),
        "classes": classes,
        "ipc": cell.ipc,
        "student": cell.student or "",
        "evaluator": cell.evaluator or "",
        "state": state or "never run",
        "reason": reason,
    }
    if experiment is not None:
        row |= _experiment_columns(experiment, cell, request, classes)
        row |= {"numerics": numerics, "setting": setting_digest(experiment, numerics, distinction)}
    return row if record is None else measured_row(row, record)


def measured_row(row: Row, record: Record) -> Row:
    """Returns the row of a cell with the numbers of a record."""
    return {**row, "state": "measured", **_record_columns(record)}


def name_mixtures(spec: TableSpec, rows: list[Row], pools: Sequence[Pool]) -> list[Row]:
    """Returns the rows with the column `mixture`: the conditions in which the records of a cell differ.

    Args:
        spec: The table.
        rows: Its rows.
        pools: The pools of all records.
    """
    by_name = {record.name: (record, pool) for pool in pools for record in pool.records}
    names = (*SETTING_COLUMNS, "row", *spec.columns)
    cells: dict[tuple[Any, ...], list[tuple[Record, Pool]]] = defaultdict(list)
    for row in rows:
        if found := by_name.get(row.get("record", "")):
            cells[tuple(row.get(name) for name in names)].append(found)
    texts = {}
    for position, found_in_cell in cells.items():
        records = [record for record, _ in found_in_cell]
        of_pools = {id(pool): pool for _, pool in found_in_cell}.values()
        differing = mixture(records)
        notes = (differing and f"its records differ: {differing}", other_numbers(records, of_pools))
        texts[position] = "; ".join(filter(None, notes))
    return [{**row, "mixture": texts.get(tuple(row.get(name) for name in names), "")} for row in rows]


def _experiment_columns(experiment: Experiment, cell: Cell, request: Request, classes: int | None) -> Row:
    changed = tuple(name for name in experiment.changed if name not in cell.settings)
    runtime = experiment.runtime
    differs = published.difference_from_paper(experiment.model_copy(update={"changed": changed}), classes)
    return {
        "student": experiment.student,
        "evaluator": experiment.evaluator_name,
        "protocol": f"{experiment.evaluator_name} v{experiment.evaluator.version}",
        "image_size": experiment.data.image_size,
        "recipe": " --set ".join(["+".join(experiment.recipes), *_changes(experiment, request)]),
        "teacher": teacher_label(experiment.teacher),
        "device": f"{runtime.device.partition(':')[0]} {runtime.precision}",
        "measured_on": measured_on(experiment.data.holdout, experiment.data.split),
        "seed": experiment.seed,
        "repeat": experiment.repeat,
        "student_seed": experiment.student_seed,
        "caveat": _caveat(experiment),
        "differs": differs or "",
        "departures": "" if differs else published.departures(experiment),
    }


def _caveat(experiment: Experiment) -> str:
    method = experiment.method
    if not method.caveat or experiment.evaluator_name == method.default_evaluator:
        return ""
    return f"{experiment.method_name}: {method.caveat}"


def _changes(experiment: Experiment, request: Request) -> list[str]:
    """Returns the changes to the recipes, e.g. `teacher.epochs=5`, except files and runtime (other columns)."""
    changes = []
    for path in dict.fromkeys(experiment.changed):
        section, _, name = path.partition(".")
        if section in ("data", "teacher") and name not in ("checkpoint", "classes"):
            changes.append(f"{path}={value_text(getattr(getattr(experiment, section), name))}")
    return changes + [text for text in request.assignments if text.partition(".")[0].strip() not in SETTING_SECTIONS]


def _record_columns(record: Record) -> Row:
    metrics = record.metrics
    return {
        "seed": record.seed,
        "repeat": record.repeat,
        "student_seed": record.student_seed,
        "set": record.distilled_digest,
        "teacher_digest": record.teacher.get("digest"),
        "top1": metrics.top1_last,
        "top1_selected": metrics.top1_selected,
        "transport_cost": record.feature_transport_cost,
        "distill_seconds": record.distill_seconds,
        "student_seconds": record.seconds["evaluate"],
        "seconds_per_iteration": record.seconds_per_iteration,
        "record": record.name,
        **measure_columns(record.measures),
    }
