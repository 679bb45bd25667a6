"""Adds published numbers to a table's frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.api.table import TableSpec
from ddbench.results import published
from ddbench.results.frames import rows_of
from ddbench.tables.rows import Row

if TYPE_CHECKING:
    import pandas as pd


def published_datasets(spec: TableSpec) -> tuple[str, ...]:
    """Returns the datasets of the paper's table, in its order. Empty if the paper has no such table."""
    if spec.name not in published.TABLES:
        return ()
    names = dict.fromkeys(published.load(spec.name)["dataset"])
    return tuple(name for name in names if name != "all")


def published_rows(spec: TableSpec) -> pd.DataFrame:
    """Returns the published numbers of the metrics of a table.

    Empty if the paper has no such table, and for a table with a column for each protocol: those of the paper have none.
    """
    rows = published.load(spec.name if published_datasets(spec) else published.TABLES[0])
    metrics = [metric.published_as or name for name, metric in spec.metrics.items()]
    of_table = rows[(rows["table"] == spec.name) & rows["metric"].isin(metrics)]
    return of_table.iloc[:0] if "evaluator" in spec.columns else of_table


def with_published(spec: TableSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the published numbers of each metric.

    Args:
        spec: The table.
        frame: Its tidy frame.

    Returns:
        The frame with the columns `published_METRIC`, `published_METRIC_error` and `published_METRIC_note`.
    """
    import pandas as pd

    rows = published_rows(spec)
    frame, lines = frame.copy(), rows_of(frame)
    for name, metric in spec.metrics.items():
        numbers = {
            _position(spec, row, row["ours"] or row["method"], row["architecture"]): [
                row["value"],
                row["error"],
                row["note"],
            ]
            for row in rows_of(rows[rows["metric"] == (metric.published_as or name)])
        }
        if numbers:
            values = [numbers.get(_position(spec, row, row["row"], row["student"]), [None, None, ""]) for row in lines]
            columns = [f"published_{name}", f"published_{name}_error", f"published_{name}_note"]
            added = pd.DataFrame(values, index=frame.index, columns=columns)
            frame[columns] = added.astype({columns[0]: float, columns[1]: float})
    return frame


def published_only(spec: TableSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each published cell of a method that ddbench does not have, or that is not installed.

    Args:
        spec: The table.
        frame: Its tidy frame. Only published cells of its datasets and IPCs are returned.
    """
    rows = published_rows(spec)
    rows = rows.assign(row=rows["ours"].where(rows["ours"] != "", rows["method"]))
    shown = rows["dataset"].isin(frame["dataset"]) & rows["ipc"].isin(frame["ipc"]) & ~rows["row"].isin(frame["row"])
    rows = rows[shown].rename(columns={"architecture": "student"})
    return rows[["table", "row", "dataset", "ipc", "student"]].assign(state="published only").drop_duplicates()


def _position(spec: TableSpec, row: Row, label: str, network: str) -> tuple[object, ...]:
    return (label, row["dataset"], row["ipc"], network if "student" in spec.columns else "")
