"""From cells to a tidy frame: what was measured is reused, what is missing is run, what fails says why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ddbench import published, records
from ddbench.errors import DDBenchError
from ddbench.records import Record
from ddbench.resolve import Request, load_recipes
from ddbench.tables import Cell, Desk, TableSpec
from ddbench.tables.cells import cells_of, of_cell
from ddbench.tables.lines import COLUMNS, line_of
from ddbench.tables.stored import from_records

if TYPE_CHECKING:
    from ddbench.data.spec import DatasetSpec
    from ddbench.plugins import PluginRegistry
    from ddbench.stages import Pipeline, Workspace


def frame_of(
    spec: TableSpec,
    request: Request,
    registry: PluginRegistry,
    workspace: Workspace | None,
    results_dir: Path,
    only_cached: bool = False,
    warn: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """The tidy frame of a table: one row a cell and student, or a cell and the reason why there is none.

    Without `workspace` records are read and nothing is computed. Raises DDBenchError for unknown names.
    """
    cells = cells_of(spec, request, registry, results_dir)
    desk = Desk(request, registry, workspace, results_dir, only_cached, warn)
    if spec.fill is not None:
        frame = spec.fill(spec, cells, desk)
    else:
        lines = run(spec, cells, desk) if workspace else from_records(spec, cells, desk)
        frame = pd.DataFrame(lines, columns=list(COLUMNS)).astype({"ipc": "Int64"})
    if not request.methods:
        frame = pd.concat([frame, _published_alone(spec, frame)], ignore_index=True)
    if spec.finish is not None:
        frame = spec.finish(frame, records.load(results_dir / "records", warn))
    return beside(spec, frame)


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
class Place:
    """A cell, the pipelines that fill it, or the reason why it cannot be filled."""

    cell: Cell
    pipelines: list[Pipeline]
    reason: str = ""


def places(cells: Iterable[Cell], request: Request, workspace: Workspace) -> list[Place]:
    """Every cell with its pipelines, checked against its dataset and networks; those of one dataset together."""
    from ddbench import running
    from ddbench.stages import Pipeline

    registry = workspace.registry
    known = load_recipes(request.recipes, registry)
    found = []
    for cell in sorted(cells, key=lambda cell: cell.dataset):
        try:
            pipelines = [Pipeline(workspace, each) for each in of_cell(cell, request, registry, known)]
            running.check_networks(pipelines)
            found.append(Place(cell, pipelines))
        except DDBenchError as error:
            found.append(Place(cell, [], str(error)))
    return found


def run(spec: TableSpec, cells: list[Cell], desk: Desk) -> list[dict[str, Any]]:
    """Runs what has no record yet, cell by cell, and writes each record before it goes on.

    A cell that fails is a line with its reason; Ctrl-C keeps what is done.
    """
    from ddbench import progress, running

    assert desk.workspace is not None
    stored = by_key(desk.results_dir, desk.warn)
    todo = places(cells, desk.request, desk.workspace)
    if not desk.only_cached:
        missing = [pipeline for place in todo for pipeline in place.pipelines if pipeline.evaluation_key not in stored]
        running.announce(missing, desk.warn)
    lines = []
    for place in todo:
        if place.reason:
            lines.append(line_of(spec, place.cell, None, "failed", place.reason))
        for pipeline in place.pipelines:
            record = stored.get(pipeline.evaluation_key)
            cached = all(state == "cached" for _, state in pipeline.plan())
            experiment, classes = pipeline.experiment, pipeline.dataset.info.num_classes
            try:
                if record is None and (cached or not desk.only_cached):
                    record, _ = running.finish(pipeline, desk.results_dir)
                    desk.warn(f"{spec.name}: {place.cell.row}: {desk.results_dir / 'records' / record.name}.json")
            except Exception as error:  # whatever a method raises, the other cells go on
                text = str(error) if isinstance(error, DDBenchError) else f"{type(error).__name__}: {error}"
                reason = " ".join(text.splitlines())
                lines.append(line_of(spec, place.cell, experiment, "failed", reason, classes=classes))
                continue
            lines.append(line_of(spec, place.cell, experiment, record=record, classes=classes))
    progress.close()
    return lines


def by_key(results_dir: Path, warn: Callable[[str], None] = lambda line: None) -> dict[str, Record]:
    """Every record by the key of its evaluation, which holds everything that its numbers depend on."""
    found = records.readable(results_dir / "records", warn)
    return {key: record for record in found for key in record.keys.get("evaluate", [])}


def beside(spec: TableSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `published_METRIC` and `published_METRIC_error` for every metric that the paper gives."""
    theirs = published_rows(spec)
    frame = frame.copy()
    for metric in spec.metrics:
        mine = theirs[theirs["metric"] == metric]
        values = {
            _place(spec, row, row["ours"] or row["method"], row["architecture"]): (row["value"], row["error"])
            for row in mine.to_dict("records")
        }
        if values:
            found = [
                values.get(_place(spec, row, row["row"], row["student"]), (None, None))
                for row in frame.to_dict("records")
            ]
            columns = [f"published_{metric}", f"published_{metric}_error"]
            frame[columns] = pd.DataFrame(found, index=frame.index, columns=columns, dtype=float)
    return frame


def _published_alone(spec: TableSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each cell of the paper whose method ddbench does not have."""
    theirs = published_rows(spec)
    alone = theirs[(theirs["ours"] == "") & theirs["dataset"].isin(frame["dataset"]) & theirs["ipc"].isin(frame["ipc"])]
    alone = alone.rename(columns={"method": "row", "architecture": "student"})
    return alone[["table", "row", "dataset", "ipc", "student"]].assign(state="published only").drop_duplicates()


def published_rows(spec: TableSpec) -> pd.DataFrame:
    """The published numbers of the table's name; an empty frame where there are none."""
    return published.load(spec.name) if spec.name in published.TABLES else published.load(published.TABLES[0]).head(0)


def _place(spec: TableSpec, row: Mapping[Any, Any], label: str, network: str) -> tuple[object, ...]:
    ipc = None if pd.isna(row["ipc"]) else int(row["ipc"])
    return (label, row["dataset"], ipc, network if "student" in spec.across else "")
