"""Summarises the records of a grid as a table."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

import pandas as pd

from ddbench.core.text import counted
from ddbench.core.text_layout import UNLIMITED, format_rows
from ddbench.pipeline.pipeline import Pipeline
from ddbench.results import published
from ddbench.results.conditions import pools
from ddbench.results.labels import recipe_label
from ddbench.results.measures import PREFIX, measure_columns
from ddbench.results.pooling import pool_top1
from ddbench.results.records import Record

SUMMARY_COLUMNS = ("method", "ipc", "top-1 (last epoch)", "n")
"""Columns that are shown even if they have one value and the terminal is narrow."""
WIDE_COLUMNS = ("W2² of features", "distill s", "student s", "process peak MB")
"""Columns that are shown only with `--wide`."""


def summary_text(cells: Iterable[tuple[Pipeline, Record]], wide: bool = False) -> str:
    """Formats the summary of a grid.

    Args:
        cells: The cells and their records.
        wide: Whether to show all columns, each row in one line, instead of the width of the terminal.
    """
    frame = summarise(cells)
    if not wide:
        frame = frame.drop(columns=list(WIDE_COLUMNS))
    rows = [dict(zip(frame.columns, map(str, row), strict=True)) for row in frame.to_numpy()]
    measures = [name for name in frame.columns if name.startswith(PREFIX)]
    return format_rows(rows, (*SUMMARY_COLUMNS, *measures), UNLIMITED if wide else None)


def summarise(cells: Iterable[tuple[Pipeline, Record]]) -> pd.DataFrame:
    """Returns one row for each pool of records (`results.conditions`): mean and standard deviation."""
    cells = list(cells)
    experiments = {id(record): pipeline.experiment for pipeline, record in cells}
    summary = []
    for pool in pools(record for _, record in cells):
        record, students = pool.example, pool.students
        top1 = pool_top1(students)
        costs = [student.feature_transport_cost for student in students if student.feature_transport_cost is not None]
        summary.append(
            {
                "method": record.method,
                "dataset": f"{record.dataset} {record.image_size}px",
                "ipc": "all" if record.ipc is None else str(record.ipc),
                "student": record.student,
                "protocol": f"{record.evaluator} v{record.evaluator_version}",
                "recipe": recipe_label(record),
                "measured on": record.measured_on,
                "top-1 (last epoch)": top1.text,
                **_measured(students),
                "n": f"{counted(top1.students, 'student')} on {counted(top1.sets, 'set')}",
                "W2² of features": f"{fmean(costs):.2f}" if costs else "",
                "distill s": f"{fmean(student.distill_seconds or 0.0 for student in students):.1f}",
                "student s": f"{fmean(student.seconds['evaluate'] for student in students):.1f}",
                "process peak MB": f"{max(max(s.peak_memory.values()) for s in students) / 2**20:.0f}",
                "published (Table 1)": published.published_text(experiments[id(record)], record.classes),
            }
        )
    frame = pd.DataFrame(summary).fillna("")  # a row can lack a measure
    unused = {"measured on": "validation images", "published (Table 1)": ""}
    return frame.drop(columns=[name for name, value in unused.items() if (frame[name] == value).all()])


def _measured(students: Iterable[Record]) -> dict[str, str]:
    """Returns the mean of each value of the measures over the students that have it."""
    values: dict[str, list[float]] = {}
    for student in students:
        for name, number in measure_columns(student.measures).items():
            values.setdefault(name, []).append(number)
    return {name: f"{fmean(numbers):.4g}" for name, numbers in values.items()}
