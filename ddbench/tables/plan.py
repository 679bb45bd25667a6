"""Plans the runs of a table: the state of its cells and the estimated time of the missing ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.api.table import Cell, TableSpec
from ddbench.config.datasets import dataset_name
from ddbench.core.text_layout import format_table, terminal_width
from ddbench.pipeline import estimate
from ddbench.pipeline.checks import check_leaks
from ddbench.pipeline.composition import load_recipes
from ddbench.pipeline.request import Request
from ddbench.results import records
from ddbench.tables.cells import cells_of, check_cells
from ddbench.tables.runs import ResolvedCell, records_by_key, resolve_cells, stored_record

if TYPE_CHECKING:
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry

HEADINGS = ("cell", "dataset", "IPC", "student", "protocol", "state", "takes about")


def plan(
    spec: TableSpec,
    request: Request,
    registry: PluginRegistry,
    workspace: Workspace | None,
    results_dir: Path,
    strict: bool = False,
) -> str:
    """Formats the plan of a table: for each cell its state and the time that it takes. Computes nothing.

    An artifact that several cells need counts for the first of them, so the sum of the times is the total.

    Args:
        spec: The table. A table with `fill` gets a plan without states and times.
        request: The options.
        registry: The registered plugins.
        workspace: The cache, the datasets and the executor. None: a plan without states and times.
        results_dir: Folder of the results.
        strict: Whether runs with a possible data leak are refused.

    Raises:
        DDBenchError: If a name is unknown, if the options are wrong for every cell, or if `strict` is set and there is
            a possible data leak.
    """
    stored = records.read_all(results_dir / "records", lambda message: None)
    cells = cells_of(spec, request, registry, stored)
    check_cells(cells, request, registry, load_recipes(request.recipes, registry))
    if workspace is None or spec.fill is not None:
        rows = [_labels(cell) for cell in cells]
        return format_table(HEADINGS[:5], rows, terminal_width())
    measured = records_by_key(stored)
    total = estimate.Estimate()
    rows, leaks = [], []
    for resolved in resolve_cells(cells, request, workspace, results_dir):
        leaks += check_leaks(resolved.pipelines, strict)
        missing = [pipeline for pipeline in resolved.pipelines if stored_record(pipeline, measured) is None]
        seconds = sum(total.add(pipeline) for pipeline in missing)
        time = estimate.readable(seconds) if seconds else ""
        rows.append((*_labels(resolved.cell, resolved), _state(resolved, len(missing)), time))
    text = format_table(HEADINGS, rows, terminal_width())
    notes = "".join(f"\n{note}" for note in dict.fromkeys(leaks))
    about = f"in all about {estimate.readable(total.total)} on this device\n{total.detail}".rstrip()
    return f"{text}\n{notes}\n{about}"


def _labels(cell: Cell, resolved: ResolvedCell | None = None) -> tuple[str, ...]:
    experiment = resolved.pipelines[0].experiment if resolved and resolved.pipelines else None
    ipc = "all" if cell.ipc is None else str(cell.ipc)
    student = experiment.student if experiment else cell.student or ""
    evaluator = experiment.evaluator_name if experiment else cell.evaluator or ""
    return cell.row, dataset_name(cell.dataset), ipc, student, evaluator


def _state(resolved: ResolvedCell, missing: int) -> str:
    count = len(resolved.pipelines)
    if resolved.reason:
        return f"impossible: {resolved.reason}"
    if not missing:
        return "measured"
    return "to do" if missing == count else f"{count - missing} of {count} measured"
