"""Builds the tidy frame of a table."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ddbench.api.table import TableSpec
from ddbench.config.given_sets import digest_in
from ddbench.core.errors import DDBenchError
from ddbench.core.text import counted
from ddbench.pipeline.composition import load_recipes
from ddbench.pipeline.request import Request
from ddbench.registry.attribution import print_warning
from ddbench.registry.hooks import CORE
from ddbench.results import records
from ddbench.results.conditions import recorded_datasets
from ddbench.results.failures import traceback_kept
from ddbench.results.frames import to_frame
from ddbench.results.measures import PREFIX
from ddbench.tables.cells import cells_of, check_cells
from ddbench.tables.checks import checked_frame
from ddbench.tables.context import TableContext
from ddbench.tables.from_records import rows_from_records
from ddbench.tables.published_columns import published_only, with_published
from ddbench.tables.rows import FRAME_COLUMNS, name_mixtures
from ddbench.tables.runs import run_cells

if TYPE_CHECKING:
    from ddbench.api.dataset import DatasetSpec
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record


def build_frame(
    spec: TableSpec,
    request: Request,
    registry: PluginRegistry,
    workspace: Workspace | None,
    results_dir: Path,
    warn: Callable[[str], None] = lambda message: None,
    yes: bool = False,
    strict: bool = False,
    stored: Sequence[Record] | None = None,
) -> pd.DataFrame:
    """Builds the tidy frame of a table. With a workspace, runs the experiments that have no record.

    Args:
        spec: The table.
        request: The options.
        registry: The registered plugins.
        workspace: The cache, the datasets and the executor. None: use records only and compute nothing.
        results_dir: Folder of the results.
        warn: Called with messages for the user.
        yes: Whether more than an hour of work may start.
        strict: Whether runs with a possible data leak are refused.
        stored: The records of the folder, if they have been read.

    Returns:
        One row per cell and student. A cell without a number has one row with the reason. docs/tables.md describes the
        columns.

    Raises:
        DDBenchError: If a name is unknown, if the options are wrong for every cell, or if the work takes more than an
            hour and `yes` is not set.
        PluginError: If the code of the table fails, or returns something else than a tidy frame.
    """
    folder = results_dir / "records"
    stored = records.read_all(folder, warn) if stored is None else stored
    if workspace is None:  # records do not say where an image folder is
        request = replace(request, datasets=recorded_datasets(request.datasets, stored))
    with table_errors(spec, registry, results_dir):
        cells = cells_of(spec, request, registry, stored, of_records=workspace is None and spec.fill is None)
    installed = {method.name for method in registry.distillers()}
    others = {record.method for record in stored} - installed - {*request.methods}
    given = {name for name in others if digest_in(name)}
    if absent := others - given:
        warn(f"not shown: records of {', '.join(sorted(absent))}: not installed here")
    if given and not request.methods:
        warn(f"not shown: records of {counted(len(given), 'given set')}: name them with --methods, e.g. {min(given)}")
    check_cells(cells, request, registry, load_recipes(request.recipes, registry))
    context = TableContext(request, registry, workspace, results_dir, warn, stored, yes, strict)
    if spec.fill is not None:
        with table_errors(spec, registry, results_dir):
            frame = checked_frame(spec, spec.fill(spec, cells, context), "fill")
    else:
        fill = run_cells if workspace else rows_from_records
        rows = fill(spec, cells, context)
        if workspace is not None:  # filling the table may have written records; the warnings have been printed before
            stored = records.read_all(folder, lambda message: None)
            context = replace(context, stored=stored)
        measured = dict.fromkeys(name for row in rows for name in row if name.startswith(PREFIX))
        columns = [*FRAME_COLUMNS, *measured]
        frame = pd.DataFrame(name_mixtures(spec, rows, context.pools), columns=columns).astype({"ipc": "Int64"})
    with table_errors(spec, registry, results_dir):
        if not request.methods:
            frame = pd.concat([frame, published_only(spec, frame)], ignore_index=True)
        if spec.finish is not None:
            frame = checked_frame(spec, spec.finish(frame, to_frame(stored)), "finish")
        return with_published(spec, frame)


@contextlib.contextmanager
def table_errors(spec: TableSpec, registry: PluginRegistry, results_dir: Path) -> Iterator[None]:
    """Names the table, its package and the file with the traceback if an exception ends the block.

    It is for the code of a table, and for code that reads what a table returned.

    Args:
        spec: The table.
        registry: The registered plugins.
        results_dir: Folder of the results.

    Raises:
        PluginError: If the block raises an exception other than a DDBenchError.
    """
    with (
        traceback_kept(f"table-{spec.name}", results_dir),
        registry.attribute_errors("table", spec.name),
        _isolated(registry.describe("table", spec.name)),
    ):
        yield


def _isolated(table: str) -> contextlib.AbstractContextManager[object]:
    """Redirects the stdout of a plugin's table to stderr, and restores the global state that it changes."""
    if table.endswith(f" of {CORE}"):
        return contextlib.nullcontext()
    if "torch" not in sys.modules:  # reading needs no torch
        return contextlib.redirect_stdout(sys.stderr)
    import torch

    from ddbench.nn.global_state import restore_global_state

    def report(changed: list[str], printed: bool) -> None:
        if changed:
            print_warning(f"{table} changed {', '.join(changed)}: restored")

    return restore_global_state(torch.device("cuda" if torch.cuda.is_available() else "cpu"), report)


def with_datasets(request: Request, registry: PluginRegistry, data_dir: Path | None) -> Request:
    """Adds the datasets of the data folder to a request that names none.

    Datasets that need no files (digits) are always present, so they are used only if the user requests them.

    Args:
        request: The options.
        registry: The registered plugins.
        data_dir: The data folder.

    Returns:
        The request. It has no datasets if there are none in the data folder.
    """
    if request.datasets:
        return request
    names = (spec.name for spec in registry.datasets() if spec.fetch and _is_present(spec, data_dir))
    return replace(request, datasets=tuple(names))


def _is_present(spec: DatasetSpec, data_dir: Path | None) -> bool:
    try:
        spec.open(data_dir)
    except DDBenchError:
        return False
    return True
