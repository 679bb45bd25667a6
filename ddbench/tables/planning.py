"""What a table would cost: its cells, what of them is cached, and an estimate of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from ddbench.api.table import Cell, TableSpec
from ddbench.pipeline import estimate
from ddbench.pipeline.request import Request, load_recipes
from ddbench.tables.cells import cells_of, check_cells
from ddbench.tables.filling import ResolvedCell, records_by_key, resolve_cells

if TYPE_CHECKING:
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry

HEADINGS = ("cell", "dataset", "IPC", "student", "protocol", "state", "takes about")


def plan(
    spec: TableSpec, request: Request, registry: PluginRegistry, workspace: Workspace | None, results_dir: Path
) -> str:
    """A line a cell: measured, to do with the time that it takes, or why it cannot be. Computes nothing.

    What cells share counts where it comes first, so that the times add up. Without a workspace, and of tables
    that measure in their own way, the cells alone. Raises DDBenchError as `filling.build_frame`.
    """
    cells = cells_of(spec, request, registry, results_dir)
    check_cells(cells, request, registry, load_recipes(request.recipes, registry))
    if workspace is None or spec.fill is not None:
        rows = [_names(cell) for cell in cells]
        return tabulate(rows, headers=HEADINGS[:5], tablefmt="simple", disable_numparse=True)
    stored = records_by_key(results_dir)
    probe = estimate.Estimate()
    rows = []
    for place in resolve_cells(cells, request, workspace):
        todo = [each for each in place.pipelines if each.cache_key("evaluate") not in stored]
        seconds = sum(probe.add(pipeline) for pipeline in todo)
        rows.append((*_names(place.cell, place), _state(place, len(todo)), _time(seconds)))
    text = tabulate(rows, headers=HEADINGS, tablefmt="simple", disable_numparse=True)
    return f"{text}\n\nin all about {estimate.readable(probe.total)} on this device"


def _names(cell: Cell, place: ResolvedCell | None = None) -> tuple[str, ...]:
    experiment = place.pipelines[0].experiment if place and place.pipelines else None
    ipc = "all" if cell.ipc is None else str(cell.ipc)
    student = experiment.student if experiment else cell.student or ""
    return cell.row, cell.dataset, ipc, student, experiment.evaluator_name if experiment else cell.evaluator or ""


def _state(place: ResolvedCell, todo: int) -> str:
    count = len(place.pipelines)
    if place.reason:
        return f"cannot be: {place.reason}"
    if not todo:
        return "measured"
    return "to do" if todo == count else f"{count - todo} of {count} measured"


def _time(seconds: float) -> str:
    return estimate.readable(seconds) if seconds else ""
