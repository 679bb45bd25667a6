"""From cells to a tidy frame: what was measured is reused, what is missing is run, what fails says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ddbench.api.table import Cell, TableSpec
from ddbench.core.errors import DDBenchError, NotCached
from ddbench.pipeline.request import Request, load_recipes
from ddbench.results import published, records
from ddbench.results.records import Record
from ddbench.tables.cells import cell_experiments, cells_of, check_cells, published_datasets
from ddbench.tables.context import TableContext
from ddbench.tables.lines import FRAME_COLUMNS, frame_row
from ddbench.tables.stored import rows_from_records

if TYPE_CHECKING:
    from ddbench.api.dataset import DatasetSpec
    from ddbench.pipeline.pipeline import Pipeline
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry


def build_frame(
    spec: TableSpec,
    request: Request,
    registry: PluginRegistry,
    workspace: Workspace | None,
    results_dir: Path,
    only_cached: bool = False,
    warn: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """The tidy frame of a table: one row a cell and student, or a cell and the reason why there is none.

    Without `workspace` records are read and nothing is computed. Raises DDBenchError for unknown names, and where
    what is asked for is wrong for every cell.
    """
    cells = cells_of(spec, request, registry, results_dir, of_records=workspace is None and spec.fill is None)
    check_cells(cells, request, registry, load_recipes(request.recipes, registry))
    desk = TableContext(request, registry, workspace, results_dir, only_cached, warn)
    if spec.fill is not None:
        with registry.attribute_errors("table", spec.name):
            frame = spec.fill(spec, cells, desk)
    else:
        lines = run_cells(spec, cells, desk) if workspace else rows_from_records(spec, cells, desk)
        frame = pd.DataFrame(lines, columns=list(FRAME_COLUMNS)).astype({"ipc": "Int64"})
    if not request.methods:
        frame = pd.concat([frame, _published_alone(spec, frame)], ignore_index=True)
    if spec.finish is not None:
        every = records.load(results_dir / "records", lambda line: None)  # said above
        with registry.attribute_errors("table", spec.name):
            frame = spec.finish(frame, every)
    return with_published(spec, frame)


def with_found_datasets(
    request: Request, workspace: Workspace, data_dir: Path | None, only_cached: bool
) -> tuple[Request, Workspace | None]:
    """The request with the datasets that lie in the data folder where it names none, and where to compute.

    No workspace: there is nothing to compute with, records alone are left.
    """
    registry = workspace.registry
    if request.datasets:
        usable = all(_lies_in(registry.dataset(name), data_dir) for name in request.datasets)
        return request, workspace if usable or not only_cached else None
    # A dataset that nobody has to fetch (digits) is always there, and is nobody's reason to run a table.
    found = tuple(spec.name for spec in registry.datasets() if spec.fetch and _lies_in(spec, data_dir))
    return (replace(request, datasets=found), workspace) if found else (request, None)


def _lies_in(spec: DatasetSpec, data_dir: Path | None) -> bool:
    try:
        spec.open(data_dir)
    except DDBenchError:
        return False
    return True


@dataclass(frozen=True)
class ResolvedCell:
    """A cell, the pipelines that fill it, or the reason why it cannot be filled."""

    cell: Cell
    pipelines: list[Pipeline]
    reason: str = ""


def resolve_cells(cells: list[Cell], request: Request, workspace: Workspace) -> list[ResolvedCell]:
    """Every cell with its pipelines, checked against its dataset and networks; those of one dataset together."""
    from ddbench.pipeline import run as running
    from ddbench.pipeline.pipeline import Pipeline

    registry = workspace.registry
    known = load_recipes(request.recipes, registry)
    datasets = [cell.dataset for cell in cells]
    found = []
    for cell in sorted(cells, key=lambda cell: datasets.index(cell.dataset)):
        try:
            pipelines = [Pipeline(workspace, each) for each in cell_experiments(cell, request, registry, known)]
            running.check_networks(pipelines)
            found.append(ResolvedCell(cell, pipelines))
        except DDBenchError as error:
            found.append(ResolvedCell(cell, [], one_line(error)))
    return found


def one_line(error: Exception) -> str:
    """What went wrong, in one line."""
    text = str(error) if isinstance(error, DDBenchError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def run_cells(spec: TableSpec, cells: list[Cell], desk: TableContext) -> list[dict[str, Any]]:
    """Runs what has no record yet, cell by cell, and writes each record before it goes on.

    A cell that fails is a line with its reason; Ctrl-C keeps what is done. Raises DDBenchError where every cell is
    refused for one and the same reason.
    """
    from ddbench.pipeline import run as running

    assert desk.workspace is not None
    stored = records_by_key(desk.results_dir, desk.warn)
    todo = resolve_cells(cells, desk.request, desk.workspace)
    if len(reasons := {place.reason for place in todo}) == 1 and (reason := reasons.pop()):
        raise DDBenchError(reason)
    missing = [
        pipeline for place in todo for pipeline in place.pipelines if pipeline.cache_key("evaluate") not in stored
    ]
    if not desk.only_cached:
        running.announce_duration(missing, desk.warn)
    lines, number = [], 0
    with desk.workspace.executor.computing([] if desk.only_cached else missing) as bring:
        for place in todo:
            if place.reason:
                lines.append(frame_row(spec, place.cell, desk.request, state="failed", reason=place.reason))
            for pipeline in place.pipelines:
                record, state, reason = stored.get(pipeline.cache_key("evaluate")), "", ""
                if record is None:
                    number += 1
                    which = f"{spec.name} {number}/{len(missing)}: {cell_name(place.cell)}"
                    try:
                        if not desk.only_cached or _is_cached(pipeline):
                            record, _ = running.finish_cell(pipeline, desk.results_dir, bring)
                            desk.warn(f"{which}: record {desk.results_dir / 'records' / record.name}.json")
                    except NotCached as error:  # it is there, but not sound
                        reason = one_line(error)
                        desk.warn(f"{which}: never run: {reason}")
                    except Exception as error:  # whatever a method raises, the other cells go on
                        state, reason = "failed", one_line(error)
                        desk.warn(f"{which}: failed: {reason}")
                experiment, classes = pipeline.experiment, pipeline.dataset.info.num_classes
                lines.append(frame_row(spec, place.cell, desk.request, experiment, state, reason, record, classes))
    return lines


def _is_cached(pipeline: Pipeline) -> bool:
    return not pipeline.missing()


def cell_name(cell: Cell) -> str:
    """`wmdd, digits, IPC 10, hard`: the cell for a person."""
    size = "" if cell.ipc is None else f"IPC {cell.ipc}"
    words = (cell.row, cell.dataset, size, cell.student, cell.evaluator)
    return ", ".join(word for word in words if word)


def records_by_key(results_dir: Path, warn: Callable[[str], None] = lambda line: None) -> dict[str, Record]:
    """Every record by the key of its evaluation, which holds everything that its numbers depend on."""
    found = records.read_all(results_dir / "records", warn)
    return {key: record for record in found for key in record.keys.get("evaluate", [])}


def with_published(spec: TableSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with what the paper gives for a metric: `published_METRIC`, and that with `_error` and `_note`."""
    theirs = published_rows(spec)
    frame = frame.copy()
    for metric, how in spec.metrics.items():
        values = {
            _place(spec, row, row["ours"] or row["method"], row["architecture"]): [
                row["value"],
                row["error"],
                row["note"],
            ]
            for row in theirs[theirs["metric"] == (how.published_as or metric)].to_dict("records")
        }
        if values:
            found = [
                values.get(_place(spec, row, row["row"], row["student"]), [None, None, ""])
                for row in frame.to_dict("records")
            ]
            columns = [f"published_{metric}", f"published_{metric}_error", f"published_{metric}_note"]
            added = pd.DataFrame(found, index=frame.index, columns=columns)
            frame[columns] = added.astype({columns[0]: float, columns[1]: float})
    return frame


def _published_alone(spec: TableSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each cell of the paper whose method ddbench does not have."""
    theirs = published_rows(spec)
    alone = theirs[(theirs["ours"] == "") & theirs["dataset"].isin(frame["dataset"]) & theirs["ipc"].isin(frame["ipc"])]
    alone = alone.rename(columns={"method": "row", "architecture": "student"})
    return alone[["table", "row", "dataset", "ipc", "student"]].assign(state="published only").drop_duplicates()


def published_rows(spec: TableSpec) -> pd.DataFrame:
    """The published numbers of the table's name that are numbers of its metrics; an empty frame without any."""
    found = published.load(spec.name if published_datasets(spec) else published.TABLES[0])
    metrics = [how.published_as or name for name, how in spec.metrics.items()]
    return found[(found["table"] == spec.name) & found["metric"].isin(metrics)]


def _place(spec: TableSpec, row: Mapping[Any, Any], label: str, network: str) -> tuple[object, ...]:
    ipc = None if pd.isna(row["ipc"]) else int(row["ipc"])
    return (label, row["dataset"], ipc, network if "student" in spec.columns else "")
