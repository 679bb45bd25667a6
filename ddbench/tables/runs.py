"""Runs the cells of a table that have no record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.api.table import Cell, TableSpec
from ddbench.config.datasets import dataset_name
from ddbench.core.errors import DDBenchError, PluginError, exception_line
from ddbench.core.text import counted
from ddbench.pipeline.composition import load_recipes
from ddbench.pipeline.request import Request
from ddbench.results.failures import write_traceback
from ddbench.results.records import Record
from ddbench.tables.cells import cell_experiments, cell_name
from ddbench.tables.context import TableContext
from ddbench.tables.rows import Row, frame_row

if TYPE_CHECKING:
    from ddbench.pipeline.executor import WaitForArtifacts
    from ddbench.pipeline.pipeline import Pipeline
    from ddbench.pipeline.workspace import Workspace


@dataclass(frozen=True)
class ResolvedCell:
    """A cell and its pipelines.

    Attributes:
        cell: The cell.
        pipelines: One per distilled set and student. Empty if the cell is impossible.
        reason: Why the cell is impossible, or an empty string.
    """

    cell: Cell
    pipelines: list[Pipeline]
    reason: str = ""


def resolve_cells(cells: list[Cell], request: Request, workspace: Workspace, results_dir: Path) -> list[ResolvedCell]:
    """Returns the cells with their pipelines, checked against the dataset and the networks, grouped by dataset.

    The cells name their dataset as records do, if any cell of it is possible; else without a fingerprint.
    """
    from ddbench.pipeline.checks import check_networks
    from ddbench.pipeline.pipeline import Pipeline

    registry = workspace.registry
    known = load_recipes(request.recipes, registry)
    datasets = [cell.dataset for cell in cells]
    resolved = []
    for cell in sorted(cells, key=lambda cell: datasets.index(cell.dataset)):
        try:
            experiments = cell_experiments(cell, request, registry, known)
            pipelines = [Pipeline(workspace, experiment) for experiment in experiments]
            check_networks(pipelines)
            resolved.append(ResolvedCell(cell, pipelines))
        except PluginError as error:
            where = write_traceback(f"{cell.method}-{dataset_name(cell.dataset)}", error.__cause__, results_dir)
            resolved.append(ResolvedCell(cell, [], f"{error} ({where})"))
        except DDBenchError as error:
            resolved.append(ResolvedCell(cell, [], exception_line(error)))
    names = {part.cell.dataset: part.pipelines[0].dataset.name for part in resolved if part.pipelines}
    for number, part in enumerate(resolved):
        name = names.get(part.cell.dataset) or dataset_name(part.cell.dataset)
        resolved[number] = replace(part, cell=replace(part.cell, dataset=name))
    return resolved


def check_possible(resolved_cells: Sequence[ResolvedCell]) -> None:
    """Refuses cells that are all impossible for the same reason, such as a folder that does not exist.

    Raises:
        DDBenchError: They are.
    """
    reasons = {resolved.reason for resolved in resolved_cells}
    if len(reasons) == 1 and (reason := reasons.pop()):
        names = list(dict.fromkeys(cell_name(resolved.cell) for resolved in resolved_cells))
        others = f" (the same for {counted(len(names) - 1, 'other cell')})" if len(names) > 1 else ""
        raise DDBenchError(f"{names[0]}: {reason}{others}")


def records_by_key(stored: Iterable[Record]) -> dict[str, Record]:
    """Returns the newest record for each cache key of an evaluation, which covers all settings of its numbers."""
    newest_last = sorted(stored, key=lambda record: record.created)
    return {key: record for record in newest_last for key in record.keys.get("evaluate", [])}


def stored_record(pipeline: Pipeline, stored: Mapping[str, Record]) -> Record | None:
    """Returns the record of an experiment, unless code that has since been edited made it.

    Args:
        pipeline: The pipeline of the experiment.
        stored: Records by key.
    """
    record = stored.get(pipeline.cache_key("evaluate"))
    builds = [(stage, build) for stage, builds in record.stages.items() for build in builds] if record else []
    current = all(pipeline.builder.accepts(stage, build) for stage, build in builds if "distribution" in build)
    return record if current else None


def run_cells(spec: TableSpec, cells: list[Cell], context: TableContext) -> list[Row]:
    """Runs the experiments of all cells that have no record, and writes each record immediately.

    Ctrl-C keeps the records that are written.

    Args:
        spec: The table.
        cells: Its cells.
        context: The objects that are needed to fill the table, with a workspace.

    Returns:
        One row per cell and student. The row of a failed cell contains the reason.

    Raises:
        DDBenchError: If all cells are impossible for the same reason, if the work takes more than an hour and
            `context.yes` is not set, or if there is a possible data leak and `context.strict` is set.
    """
    from ddbench.pipeline import estimate
    from ddbench.pipeline.checks import check_leaks
    from ddbench.pipeline.run import report_cell

    assert context.workspace is not None
    stored = records_by_key(context.stored)
    resolved_cells = resolve_cells(cells, context.request, context.workspace, context.results_dir)
    check_possible(resolved_cells)
    pipelines = [pipeline for resolved in resolved_cells for pipeline in resolved.pipelines]
    records = {id(pipeline): stored_record(pipeline, stored) for pipeline in pipelines}
    missing = [pipeline for pipeline in pipelines if records[id(pipeline)] is None]
    schedule = estimate.Schedule(missing)
    context.check_duration(schedule.total, schedule.where, schedule.estimate.detail)
    for note in check_leaks(missing, context.strict):
        context.warn(note)
    rows, number = [], 0
    with context.workspace.executor.computing(missing) as wait_for_artifacts:
        for resolved in resolved_cells:
            if resolved.reason:
                rows.append(frame_row(spec, resolved.cell, context.request, state="failed", reason=resolved.reason))
            for pipeline in resolved.pipelines:
                record, state, reason = records[id(pipeline)], "", ""
                if record is None:
                    number += 1
                    left = f"; {left}" if (left := schedule.left(number - 1)) else ""
                    report_cell(pipeline, f"cell {number} of {len(missing)}: {pipeline.experiment.name}{left}")
                    title = f"{spec.name} {number}/{len(missing)}: {cell_name(resolved.cell)}"
                    record, state, reason = _run_pipeline(pipeline, title, context, wait_for_artifacts)
                experiment, classes = pipeline.experiment, pipeline.info.num_classes
                rows.append(frame_row(spec, resolved.cell, context.request, experiment, state, reason, record, classes))
    return rows


def _run_pipeline(
    pipeline: Pipeline, title: str, context: TableContext, wait_for_artifacts: WaitForArtifacts
) -> tuple[Record | None, str, str]:
    """Returns the record, or a state and the reason."""
    from ddbench.pipeline.run import finish_cell, report_cell

    try:
        record, _ = finish_cell(pipeline, context.results_dir, wait_for_artifacts)
    except Exception as error:  # after any exception, the other cells are still run
        return None, "failed", context.report_failure(title, error)
    report_cell(pipeline, f"{title}: record {context.results_dir / 'records' / record.name}.json")
    return record, "", ""
