"""The public classes that define a table: TableSpec, its cells and its metrics. Imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Metric:
    """How one column of the tidy frame is shown in a table.

    By default the column holds one number per student, and a cell shows their mean, standard deviation and count.

    Attributes:
        title: Heading of the metric.
        digits: Digits after the decimal point. None: three significant digits.
        per_cell: Whether the column holds one number or text per cell instead of one per student. Optional columns
            `NAME_deviation`, `NAME_n` and `NAME_note` then hold its deviation, its count and a remark.
        published_as: Name of the metric among the published numbers, if it differs from the column's name.
        show_difference: Whether to show the difference to the published number. It is shown only if the
            conditions are those of the paper.
        mark_best: Whether to print the highest mean of each column in bold, and those that cannot be distinguished from
            it.
    """

    title: str
    digits: int | None = None
    per_cell: bool = False
    published_as: str = ""
    show_difference: bool = False
    mark_best: bool = False


TOP1: Mapping[str, Metric] = {"top1": Metric("top-1", 2, show_difference=True, mark_best=True)}
"""The default of `TableSpec.metrics`: top-1 of the student after its last epoch."""


@dataclass(frozen=True)
class TableQuery:
    """The part of a table that the user requests.

    Attributes:
        datasets: Names of the datasets.
        methods: Names of the methods. Default: all registered methods.
        ipcs: Images per class. Default: `TableSpec.ipcs`.
    """

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    ipcs: tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its position and the run that fills it.

    A method without an IPC (`Distiller.needs_ipc` is False) appears in one cell, under its default evaluator, and in
    no cell that has settings.

    Attributes:
        row: Text at the head of its row.
        method: Name of the method.
        dataset: Name of the dataset.
        ipc: Images per class, or None for a method without an IPC.
        student: Network of the student. None: the network given on the command line.
        evaluator: Name of the evaluator. None: the evaluator given on the command line.
        settings: Settings of this cell by dotted name, e.g. `{"method.feature_loss": "mmd"}`. They override recipes
            and `--set`.
    """

    row: str
    method: str
    dataset: str
    ipc: int | None
    student: str | None = None
    evaluator: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TableSpec:
    """A table that `ddbench table NAME` measures and shows. Every dataset becomes one block of rows.

    Attributes:
        name: Name on the command line.
        about: One line about the content of the table.
        cells: Returns the cells for a query, in the order of the rows. Two cells must differ in row, dataset or
            columns.
        reference: The paper's table that this one reproduces, e.g. `WMDD paper, Table 1`. Its numbers are the
            published numbers stored under `name`; see `ddbench.results.published`.
        row: Heading of the rows.
        columns: Fields of `Cell` that span the columns: "ipc", "student", "evaluator".
        metrics: The columns of the tidy frame that are shown, by name.
        ipcs: Images per class that are used if the user chooses none.
        fill: Measures the cells instead of training students. Called as `fill(spec, cells, context)`, where
            `context` is a `ddbench.tables.context.TableContext`; returns the tidy frame.
        finish: Adds columns to the tidy frame. Called as `finish(frame, records)` with all records as a frame;
            returns the new frame.

    Example:
        A table of two temperatures of the student's loss, registered by a hook:

            from ddbench.api import Cell, TableSpec, hookimpl


            def temperatures(query):
                for dataset in query.datasets:
                    for method in query.methods:
                        for ipc in query.ipcs:
                            for value in (4, 20):
                                row, settings = f"{method}, T = {value}", {"evaluator.temperature": value}
                                yield Cell(row, method, dataset, ipc, evaluator="fkd", settings=settings)


            @hookimpl
            def ddbench_tables():
                return [TableSpec("temperature", "top-1 by temperature", temperatures)]
    """

    name: str
    about: str
    cells: Callable[[TableQuery], Iterable[Cell]]
    reference: str = ""
    row: str = "method"
    columns: tuple[str, ...] = ("ipc",)
    metrics: Mapping[str, Metric] = field(default_factory=lambda: dict(TOP1))
    ipcs: tuple[int, ...] = (10,)
    fill: Callable[[TableSpec, list[Cell], Any], pd.DataFrame] | None = None
    finish: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame] | None = None
