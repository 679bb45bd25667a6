"""What a table is: the cells that it measures, and what it shows of them. Imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Metric:
    """How a column of the tidy frame is shown: `digits` behind the point, None: three significant ones.

    Of a student, it is shown as mean, deviation and number over a cell's students. With `of_cell` it is one number or
    text a cell, with its own deviation and number in the columns `NAME_deviation` and `NAME_n`, and a remark in
    `NAME_note`, where there are such columns. `printed` is its name among the published numbers, where that is
    another; the difference to those is shown with `subtracted`, where the conditions are the paper's.
    """

    title: str
    digits: int | None = None
    of_cell: bool = False
    printed: str = ""
    subtracted: bool = False


TOP1: Mapping[str, Metric] = {"top1": Metric("top-1", 2, subtracted=True)}


@dataclass(frozen=True)
class TableQuery:
    """What a table is asked for; where none were chosen, all registered `methods` and the table's own `ipcs`."""

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    ipcs: tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """One place of a table and the run that fills it.

    `row` is the text at the head of its row. `student` and `evaluator`: None for the run's own. `settings` are
    those that make the cell what it is, by dotted name, e.g. {"method.feature_loss": "mmd"}; they come after
    recipes and `--set`. A method without an IPC has it in one cell, under its own protocol, and in none with settings.
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
    """A table by name: `cells(asked)` are its places, in the order of its rows.

    `about` says in one line what it shows; `reference` names the paper's table that it stands beside, whose
    numbers are those of `name` in `ddbench.results.published`. `row` is the heading of the rows. `across` says what makes
    columns: "ipc", "student", "evaluator"; every dataset is a block, and no two cells may stand in one place. `metrics`
    are the columns of the tidy frame that are shown. `ipcs` are taken where none are asked for.

    `fill(spec, cells, desk)` measures in place of training students, and returns the tidy frame. `finish(frame,
    records)` adds columns to the tidy frame, from all records.
    """

    name: str
    about: str
    cells: Callable[[TableQuery], Iterable[Cell]]
    reference: str = ""
    row: str = "method"
    across: tuple[str, ...] = ("ipc",)
    metrics: Mapping[str, Metric] = field(default_factory=lambda: dict(TOP1))
    ipcs: tuple[int, ...] = (10,)
    fill: Callable[[TableSpec, list[Cell], Any], pd.DataFrame] | None = None
    finish: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame] | None = None
