"""Checks what a plugin defines for a table: its columns and metrics, its cells and its frame."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import pandas as pd

from ddbench.api.table import Cell, Metric, TableSpec
from ddbench.core.text import counted
from ddbench.tables.rows import FRAME_COLUMNS, NUMBER_COLUMNS

COLUMN_FIELDS = ("ipc", "student", "evaluator")
"""The fields of a cell that can span the columns of a table."""
CELL_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "row": (str, "text"),
    "method": (str, "text"),
    "dataset": (str, "text"),
    "ipc": ((Integral, type(None)), "a whole number or None"),
    "student": ((str, type(None)), "text or None"),
    "evaluator": ((str, type(None)), "text or None"),
    "settings": (Mapping, "a mapping"),
}
REQUIRED_COLUMNS = tuple(name for name in FRAME_COLUMNS if name not in (*NUMBER_COLUMNS, "seed", "mixture", "caveat"))
"""Columns of every tidy frame. The others are left empty in a printed table if they are missing."""


def check_spec(spec: TableSpec) -> None:
    """Checks the columns and the metrics of a table.

    Raises:
        TypeError: If a metric is not a Metric.
        ValueError: If a column is not a field that can span the columns.
    """
    for name in spec.columns:
        if name not in COLUMN_FIELDS:
            raise ValueError(f"columns has {reprlib.repr(name)}, which is not one of {', '.join(COLUMN_FIELDS)}")
    if not isinstance(spec.metrics, Mapping):
        raise TypeError(f"metrics is {reprlib.repr(spec.metrics)}, not a mapping")
    for name, metric in spec.metrics.items():
        if not isinstance(metric, Metric):
            raise TypeError(f"metrics has {reprlib.repr(metric)} as '{name}', not a Metric")


def checked_cells(cells: Iterable[Any]) -> list[Cell]:
    """Returns the cells of a table as a list.

    Raises:
        TypeError: If one is not a Cell, or has a field of another type.
    """
    cells = list(cells)
    for cell in cells:
        if not isinstance(cell, Cell):
            raise TypeError(f"cells gives {reprlib.repr(cell)}, not a Cell")
        for name, (types, expected) in CELL_TYPES.items():
            if not isinstance(value := getattr(cell, name), types):
                raise TypeError(f"cells gives a Cell whose {name} is {reprlib.repr(value)}, not {expected}")
    return cells


def checked_frame(spec: TableSpec, frame: Any, source: str) -> pd.DataFrame:
    """Returns the tidy frame of a table.

    Args:
        spec: The table.
        frame: What the table's code returned.
        source: The function that returned it: "fill" or "finish".

    Raises:
        TypeError: If it is not a DataFrame, or if a metric has values that are no numbers.
        ValueError: If a column is missing.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{source} returns {reprlib.repr(frame)}, not a DataFrame")
    missing = [name for name in REQUIRED_COLUMNS if name not in frame]
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if missing[3:] else "")
        raise ValueError(f"{source} returns a frame without {counted(len(missing), 'column')}: {names}")
    for name, metric in spec.metrics.items():
        types, expected = ((Real, str), "a number or text") if metric.per_cell else (Real, "a number")
        for value in frame[name].dropna() if name in frame else ():
            if not isinstance(value, types):
                raise TypeError(f"{source} returns {reprlib.repr(value)} in the column '{name}', not {expected}")
    return frame
