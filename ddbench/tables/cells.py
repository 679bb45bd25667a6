"""Which cells a table has, and the experiments of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench import published, records
from ddbench.errors import DDBenchError
from ddbench.experiment import Experiment
from ddbench.resolve import Request, of_one
from ddbench.tables import Asked, Cell, TableSpec

if TYPE_CHECKING:
    from ddbench.plugins import PluginRegistry
    from ddbench.recipes import Recipe


def cells_of(spec: TableSpec, request: Request, registry: PluginRegistry, results_dir: Path) -> list[Cell]:
    """The table's cells, each once, of the datasets, methods and IPCs that are asked for.

    Raises DDBenchError for an unknown name, and where no cell is left.
    """
    for name in request.datasets:
        registry.dataset(name)
    for name in request.methods:
        registry.distiller(name)
    methods = request.methods or tuple(method.name for method in registry.distillers())
    datasets = request.datasets or _known_datasets(spec, results_dir)
    cells = []
    for cell in spec.cells(Asked(datasets, methods, request.ipcs or spec.ipcs)):
        if cell.method in methods:
            needs_ipc = registry.distiller(cell.method).needs_ipc
            # What has no IPC has a protocol of its own as well.
            cells.append(cell if needs_ipc else replace(cell, ipc=None, evaluator=None, settings={}))
    if not cells and spec.fill is None:
        raise DDBenchError(f"table '{spec.name}' has no cell of method {', '.join(request.methods)}")
    distinct = {(cell.row, cell.method, cell.dataset, cell.ipc, cell.student, cell.evaluator): cell for cell in cells}
    return list(distinct.values())


def _known_datasets(spec: TableSpec, results_dir: Path) -> tuple[str, ...]:
    """Of published numbers and of records."""
    names = [*published.PAPER_SIZES] if spec.name in published.TABLES else []
    names += [str(name) for name in records.load(results_dir / "records", lambda line: None).get("dataset", [])]
    return tuple(dict.fromkeys(names))


def of_cell(cell: Cell, request: Request, registry: PluginRegistry, known: list[Recipe]) -> list[Experiment]:
    """The experiments of one cell: its sets and students. Raises DDBenchError where it cannot be."""
    settings = tuple(f"{name}={_plain(value)}" for name, value in cell.settings.items())
    methods = request.methods or tuple(method.name for method in registry.distillers())
    asked = replace(
        request,
        methods=methods,
        students=(cell.student,) if cell.student else request.students,
        evaluator=cell.evaluator or request.evaluator,
        assignments=(*request.assignments, *settings),
    )
    return of_one(asked, registry, known, cell.dataset, cell.method, cell.ipc)


def _plain(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
