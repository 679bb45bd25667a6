"""Records as a pandas frame, and the rows of a frame as records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ddbench.api.evaluator import Metrics
from ddbench.results.measures import measure_columns
from ddbench.results.records import Record

if TYPE_CHECKING:
    import pandas as pd


def to_frame(stored: Iterable[Record]) -> pd.DataFrame:
    """Returns records as a tidy frame: one row per record.

    Returns:
        The fields of `Record`, with the metrics and the values of measures (`measure.NAME`) as columns. `ipc` is a
        nullable integer, missing for the whole training set. `holdout` is the share of held-out training images (0:
        none). `configuration` holds the nested configuration as a dict.
    """
    import pandas as pd

    rows = []
    for record in stored:
        row = record.model_dump(mode="json", exclude={"metrics"})
        # Fields that are not written are columns too, so that all frames have the same columns.
        optional = {"origin": record.origin, "distilled_form": record.distilled_form, "trials": row.get("trials", [])}
        more = {**optional, "holdout": record.holdout, "curve": None}
        numbers = {**record.metrics.model_dump(mode="json"), **measure_columns(record.measures)}
        rows.append({"measures": {}, **row, **more, **numbers})
    frame = pd.DataFrame(rows)
    return frame.astype({"ipc": "Int64"}) if rows else frame


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows of a frame as values by column. A missing value is None.

    Example:
        >>> import pandas as pd
        >>> rows_of(pd.DataFrame({"method": ["random"], "ipc": [float("nan")]}))
        [{'method': 'random', 'ipc': None}]
    """
    names, missing = [str(name) for name in frame.columns], frame.isna().to_numpy().T
    columns = [
        [
            None if absent else value
            for value, absent in zip(frame.iloc[:, number].tolist(), missing[number], strict=True)
        ]
        for number in range(len(names))
    ]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def from_frame(frame: pd.DataFrame) -> list[Record]:
    """Returns the records of a frame that `to_frame` returned, or of a part of it."""
    rows = rows_of(frame)
    metrics = Metrics.model_fields
    fields = Record.model_fields.keys() - {"metrics"}
    return [
        Record(**{name: row[name] for name in fields}, metrics=Metrics(**{name: row[name] for name in metrics}))
        for row in rows
    ]
