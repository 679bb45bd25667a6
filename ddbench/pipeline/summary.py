"""Summarises the records of a grid as a table."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ddbench.core.text import counted
from ddbench.core.text_layout import format_rows
from ddbench.pipeline.pipeline import Pipeline
from ddbench.results import published
from ddbench.results.labels import recipe_label
from ddbench.results.pooling import Pooled, pool
from ddbench.results.records import Record

SUMMARY_COLUMNS = ("method", "ipc", "top-1 (last epoch)", "n")
"""Columns that are shown even if they have one value and the terminal is narrow."""


def summary_text(cells: Iterable[tuple[Pipeline, Record]], width: int | None = None) -> str:
    """Formats the summary of a grid.

    Args:
        cells: The cells and their records.
        width: Characters per line; default: those of the terminal.
    """
    frame = summarise(cells)
    rows = [dict(zip(frame.columns, map(str, row), strict=True)) for row in frame.to_numpy()]
    return format_rows(rows, SUMMARY_COLUMNS, width)


def summarise(cells: Iterable[tuple[Pipeline, Record]]) -> pd.DataFrame:
    """Returns one row for each method, dataset, IPC, student and protocol: mean and standard deviation.

    Accuracies on held-out training images and on validation images never share a row.
    """
    rows = []
    for pipeline, record in cells:
        experiment = pipeline.experiment
        rows.append(
            {
                "method": record.method,
                "dataset": f"{record.dataset} {record.image_size}px",
                "ipc": "all" if record.ipc is None else str(record.ipc),
                "student": record.student,
                "protocol": f"{record.evaluator} v{record.evaluator_version}",
                "recipe": recipe_label(record),
                "measured on": record.measured_on,
                "top1": record.metrics.top1_last,
                "set": record.distilled_digest,
                "seed": record.student_seed,
                "W2": record.feature_transport_cost,
                "distill": record.seconds.get("distill", 0.0),
                "evaluate": record.seconds["evaluate"],
                "memory": max(record.peak_memory.values()),
                "published": published.published_text(experiment, record.classes),
            }
        )
    frame = pd.DataFrame(rows)
    # A student on a set is one measurement, even if the grid names it twice.
    frame = frame.drop_duplicates(["method", "dataset", "student", "protocol", "recipe", "measured on", "set", "seed"])
    columns = ["method", "dataset", "ipc", "student", "protocol", "recipe", "measured on", "published"]
    summary = []
    for names, part in frame.groupby(columns, sort=False):
        values = dict(zip(columns, names, strict=True))
        published_value, split = values.pop("published"), values.pop("measured on")
        sets = part["set"].nunique()
        costs = part["W2"].dropna()
        summary.append(
            {
                **values,
                **({"measured on": split} if (frame["measured on"] != "validation images").any() else {}),
                "top-1 (last epoch)": spread(pool(list(part["top1"]), list(part["set"]))),
                "n": f"{counted(len(part), 'student')} on {counted(sets, 'set')}",
                "W2² of features": f"{costs.mean():.2f}" if len(costs) else "",
                "distill s": f"{part['distill'].mean():.1f}",
                "student s": f"{part['evaluate'].mean():.1f}",
                "process peak MB": f"{part['memory'].max() / 2**20:.0f}",
                **({"published (Table 1)": published_value} if (frame["published"] != "").any() else {}),
            }
        )
    return pd.DataFrame(summary)


def spread(pooled: Pooled) -> str:
    """Returns mean and standard deviation as text, or only the mean if there is one value.

    >>> spread(pool([62.0, 62.6], ["a", "b"]))
    '62.30 ± 0.42'
    """
    deviation = "" if pooled.deviation is None else f" ± {pooled.deviation:.2f}"
    return f"{pooled.mean:.2f}{deviation}"
