"""What a table is: the cells that it measures, and what it shows of them. Imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.plugins import PluginRegistry
    from ddbench.resolve import Request
    from ddbench.stages import Workspace


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
class Asked:
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
class Desk:
    """What a table that measures in its own way may use (`TableSpec.fill`).

    `workspace` is None where nothing may be computed: there are records alone. `only_cached`: nothing new.
    """

    request: Request
    registry: PluginRegistry
    workspace: Workspace | None
    results_dir: Path
    only_cached: bool
    warn: Callable[[str], None]


@dataclass(frozen=True)
class TableSpec:
    """A table by name: `cells(asked)` are its places, in the order of its rows.

    `about` says in one line what it shows; `reference` names the paper's table that it stands beside, whose
    numbers are those of `name` in `ddbench.published`. `row` is the heading of the rows. `across` says what makes
    columns: "ipc", "student", "evaluator"; every dataset is a block, and no two cells may stand in one place. `metrics`
    are the columns of the tidy frame that are shown. `ipcs` are taken where none are asked for.

    `fill(spec, cells, desk)` measures in place of training students, and returns the tidy frame. `finish(frame,
    records)` adds columns to the tidy frame, from all records.
    """

    name: str
    about: str
    cells: Callable[[Asked], Iterable[Cell]]
    reference: str = ""
    row: str = "method"
    across: tuple[str, ...] = ("ipc",)
    metrics: Mapping[str, Metric] = field(default_factory=lambda: dict(TOP1))
    ipcs: tuple[int, ...] = (10,)
    fill: Callable[[TableSpec, list[Cell], Desk], pd.DataFrame] | None = None
    finish: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame] | None = None


def load(name: str, results_dir: Path = Path("results"), ipcs: tuple[int, ...] = ()) -> pd.DataFrame:
    """What the records of `results_dir` hold of the table `name`, tidy: one row a cell and student.

    `ipcs`: images a class (default: the table's own and those of the records). Columns: see docs/tables.md; `state`
    is "measured" or "never run". Computes nothing. Raises DDBenchError for an unknown table.
    """
    from ddbench.plugins import PluginRegistry
    from ddbench.resolve import Request
    from ddbench.tables.filling import frame_of

    registry = PluginRegistry()
    request = Request(methods=(), datasets=(), ipcs=ipcs)
    return frame_of(registry.table(name), request, registry, None, results_dir)
