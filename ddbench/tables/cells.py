"""Which cells a table has, and the experiments of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.api.table import Cell, TableQuery, TableSpec
from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.core.text import value_text
from ddbench.pipeline.request import Request, expand_cell
from ddbench.results import published, records

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.config.recipes import Recipe
    from ddbench.registry.registry import PluginRegistry


def cells_of(
    spec: TableSpec, request: Request, registry: PluginRegistry, results_dir: Path, of_records: bool = False
) -> list[Cell]:
    """The table's cells, each once, of the datasets, methods and IPCs that are asked for.

    Where no dataset is asked for, those of the paper's table and of all records; where no IPC is, the table's
    own and, with `of_records`, those of all records. Raises DDBenchError for an unknown name, for two cells in one
    place, and where no cell is left.
    """
    for name in request.datasets:
        registry.dataset(name)
    for name in request.methods:
        registry.distiller(name)
    methods = request.methods or tuple(method.name for method in registry.distillers())
    found = records.load(results_dir / "records", lambda line: None)
    ipcs = request.ipcs or (*spec.ipcs, *(_distinct(found, "ipc") if of_records else ()))
    asked = TableQuery(
        tuple(dict.fromkeys(request.datasets or _known_datasets(spec, found))), methods, tuple(dict.fromkeys(ipcs))
    )
    placed: dict[tuple[object, ...], Cell] = {}
    with registry.attribute_errors("table", spec.name):
        cells = list(spec.cells(asked))
    for cell in _possible(cells, methods, registry):
        place = (cell.row, cell.dataset, *(getattr(cell, name) for name in spec.columns))
        if placed.setdefault(place, cell) != cell:
            columns = "".join(f", {name} {getattr(cell, name)}" for name in spec.columns)
            raise DDBenchError(f"table '{spec.name}' has two cells in row '{cell.row}'{columns}")
    if not placed:
        raise DDBenchError(f"table '{spec.name}' has no cell of method {', '.join(methods)}")
    return list(placed.values())


def _possible(cells: Iterable[Cell], methods: tuple[str, ...], registry: PluginRegistry) -> Iterable[Cell]:
    for cell in cells:
        if cell.method not in methods:
            continue
        distiller = registry.distiller(cell.method)
        if distiller.needs_ipc:
            yield cell
        elif not cell.settings:
            yield replace(cell, ipc=None, evaluator=distiller.default_evaluator)


def _known_datasets(spec: TableSpec, found: pd.DataFrame) -> tuple[str, ...]:
    return (*published_datasets(spec), *map(str, _distinct(found, "dataset"))) or tuple(published.PAPER_SIZES)


def published_datasets(spec: TableSpec) -> tuple[str, ...]:
    """The datasets of the paper's table, in its order; none where it has no such table."""
    if spec.name not in published.TABLES:
        return ()
    names = dict.fromkeys(published.load(spec.name)["dataset"])
    return tuple(name for name in names if name != "all")


def _distinct(found: pd.DataFrame, column: str) -> list[str | int]:
    return [] if found.empty else found[column].dropna().drop_duplicates().sort_values().tolist()


def check_cells(cells: Iterable[Cell], request: Request, registry: PluginRegistry, known: list[Recipe]) -> None:
    """Raises DDBenchError, that of the first, where what is asked for is wrong for every cell."""
    first: DDBenchError | None = None
    for cell in cells:
        try:
            cell_experiments(cell, request, registry, known)
        except DDBenchError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def cell_experiments(cell: Cell, request: Request, registry: PluginRegistry, known: list[Recipe]) -> list[Experiment]:
    """The experiments of one cell: its sets and students. Raises DDBenchError where it cannot be."""
    settings = tuple(f"{name}={value_text(value)}" for name, value in cell.settings.items())
    methods = request.methods or tuple(method.name for method in registry.distillers())
    asked = replace(
        request,
        methods=methods,
        students=(cell.student,) if cell.student else request.students,
        evaluator=cell.evaluator or request.evaluator,
        assignments=(*request.assignments, *settings),
    )
    return expand_cell(asked, registry, known, cell.dataset, cell.method, cell.ipc)
