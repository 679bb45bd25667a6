"""The cells of a table, and the experiments of each cell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ddbench.api.table import Cell, TableQuery, TableSpec
from ddbench.config.datasets import dataset_name
from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.core.text import value_text
from ddbench.pipeline.request import Request, check_protocols, expand_cell, protocols
from ddbench.results import published
from ddbench.tables.checks import check_spec, checked_cells
from ddbench.tables.published_columns import published_datasets

if TYPE_CHECKING:
    from ddbench.config.recipes import Recipe
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record


def with_protocol_columns(spec: TableSpec, request: Request) -> TableSpec:
    """Returns a table with one column for each protocol, if the options have several.

    Args:
        spec: The table.
        request: The options.
    """
    if len(request.evaluators) < 2 or "evaluator" in spec.columns:
        return spec
    return replace(spec, columns=(*spec.columns, "evaluator"))


def cells_of(
    spec: TableSpec,
    request: Request,
    registry: PluginRegistry,
    stored: Iterable[Record],
    of_records: bool = False,
) -> list[Cell]:
    """Returns the cells of a table for the requested datasets, methods and IPCs.

    Args:
        spec: The table.
        request: The options. Default datasets: those of the paper's table and of all records. Default IPCs: those of
            the table.
        registry: The registered plugins.
        stored: All records.
        of_records: Whether the default IPCs include those of all records.

    Raises:
        DDBenchError: If a name is unknown, if two cells share a position, or if there is no cell.
        PluginError: If the code of the table fails, or gives something else than cells.
    """
    for name in request.datasets:
        registry.dataset(name)
    for name in request.methods:
        registry.distiller(name)
    check_protocols(request, registry)
    methods = request.methods or tuple(method.name for method in registry.distillers())
    stored = list(stored)
    ipcs = request.ipcs or (*spec.ipcs, *(sorted({r.ipc for r in stored if r.ipc is not None}) if of_records else ()))
    datasets = request.datasets or _default_datasets(spec, stored)
    query = TableQuery(tuple(dict.fromkeys(datasets)), methods, tuple(dict.fromkeys(ipcs)))
    with registry.attribute_errors("table", spec.name):
        check_spec(spec)
        cells = checked_cells(spec.cells(query))
    if request.evaluators and all(cell.evaluator for cell in cells):
        raise DDBenchError(f"--evaluator {request.evaluators[0]}: table '{spec.name}' sets the protocol of every cell")
    if len(request.evaluators) > 1:
        cells = [with_one for cell in cells for with_one in _for_each_protocol(cell, request, registry)]
    by_position: dict[tuple[object, ...], Cell] = {}
    for cell in _possible(cells, methods, registry):
        position = (cell.row, cell.dataset, *(getattr(cell, name) for name in spec.columns))
        if by_position.setdefault(position, cell) != cell:
            columns = "".join(f", {name} {getattr(cell, name)}" for name in spec.columns)
            raise DDBenchError(f"{registry.describe('table', spec.name)} has two cells in row '{cell.row}'{columns}")
    if not by_position:
        raise DDBenchError(f"table '{spec.name}' has no cells for method {', '.join(methods)}")
    return list(by_position.values())


def _for_each_protocol(cell: Cell, request: Request, registry: PluginRegistry) -> list[Cell]:
    if cell.evaluator is not None:
        return [cell]
    return [replace(cell, evaluator=name) for name in protocols(request, registry, cell.method)]


def _possible(cells: Iterable[Cell], methods: tuple[str, ...], registry: PluginRegistry) -> Iterable[Cell]:
    for cell in cells:
        if cell.method not in methods:
            continue
        distiller = registry.distiller(cell.method)
        if distiller.needs_ipc:
            yield cell
        elif not cell.settings:
            yield replace(cell, ipc=None, evaluator=distiller.default_evaluator)


def _default_datasets(spec: TableSpec, stored: Iterable[Record]) -> tuple[str, ...]:
    names = sorted({record.dataset for record in stored})
    return (*published_datasets(spec), *names) or tuple(published.PAPER_SIZES)


def check_cells(cells: Iterable[Cell], request: Request, registry: PluginRegistry, known: list[Recipe]) -> None:
    """Checks the options.

    Raises:
        DDBenchError: If the options are invalid for every cell. It is the error of the first cell.
    """
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
    """Returns the experiments of a cell: one per distilled set and student.

    Args:
        cell: The cell.
        request: The options. The student, evaluator and settings of the cell override them.
        registry: The registered plugins.
        known: The known recipes.

    Raises:
        DDBenchError: If a name or a setting is wrong.
    """
    settings = tuple(f"{name}={value_text(value)}" for name, value in cell.settings.items())
    cell_request = replace(
        request,
        methods=request.methods or tuple(method.name for method in registry.distillers()),
        students=(cell.student,) if cell.student else request.students,
        evaluators=(cell.evaluator,) if cell.evaluator else request.evaluators,
        assignments=(*request.assignments, *settings),
    )
    return expand_cell(cell_request, registry, known, cell.dataset, cell.method, cell.ipc)


def cell_name(cell: Cell) -> str:
    """Names a cell for the user.

    Example:
        >>> cell_name(Cell("wmdd", "wmdd", "digits", 10, evaluator="hard"))
        'wmdd, digits, IPC 10, hard'
    """
    ipc = "" if cell.ipc is None else f"IPC {cell.ipc}"
    words = (cell.row, dataset_name(cell.dataset), ipc, cell.student, cell.evaluator)
    return ", ".join(word for word in words if word)
