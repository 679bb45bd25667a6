"""The table `budget`: top-1 against the bytes of images and labels. Imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ddbench.api.table import Cell, Metric, TableQuery, TableSpec
from ddbench.methods.full import Full
from ddbench.methods.random import Random

if TYPE_CHECKING:
    import pandas as pd

LABELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "hard": ("hard", {}),
    "soft": ("soft", {}),
    "fkd, 1 view": ("fkd", {"evaluator.label_views": 1}),
    "fkd, 10 views": ("fkd", {"evaluator.label_views": 10}),
    "fkd, 50 views": ("fkd", {"evaluator.label_views": 50}),
    "fkd, all views": ("fkd", {"evaluator.label_views": None}),
}
"""The label budgets by name, in the order of their bytes: the protocol and its settings."""


def cells(query: TableQuery) -> Iterable[Cell]:
    """Returns a cell for each method, dataset, IPC and label budget; for random images also at twice the IPC.

    At equal bytes, random images with fewer labels can be compared with fewer distilled images with more labels.
    The full data has no cells, because its bytes are those of no label budget.
    """
    for dataset in query.datasets:
        for method in query.methods:
            if method == Full.name:
                continue
            twice = tuple(2 * ipc for ipc in query.ipcs) if method == Random.name else ()
            for ipc in dict.fromkeys((*query.ipcs, *twice)):
                for labels, (evaluator, settings) in LABELS.items():
                    yield Cell(f"{method}, IPC {ipc}, {labels}", method, dataset, ipc, None, evaluator, settings)


def with_bytes(frame: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """Adds the bytes of images and labels to each row, and leaves out cells that were never run.

    Args:
        frame: The tidy frame.
        records: All records, from `ddbench.results.frames.to_frame`.

    Returns:
        The frame with the columns `image_bytes`, `label_bytes` and `total_bytes`. A dataset without a measured cell
        keeps its rows "never run".
    """
    by_name = records.set_index("name") if len(records) else records
    for column in ("image_bytes", "label_bytes"):
        values = by_name[column].to_dict() if len(records) else {}
        frame = frame.assign(**{column: frame["record"].map(values)})
    frame = frame.assign(total_bytes=frame["image_bytes"] + frame["label_bytes"])
    is_measured = frame["state"].eq("measured").groupby(frame["dataset"]).transform("any")
    return frame[frame["state"].ne("never run") | ~is_measured]


BUDGET = TableSpec(
    "budget",
    "top-1 against the bytes of images and labels, by method and label budget; random also with twice the images",
    cells,
    row="method, images and labels",
    columns=(),
    metrics={
        "top1": Metric("top-1", 2),
        "total_bytes": Metric("bytes", 0, per_cell=True),
        "image_bytes": Metric("of images", 0, per_cell=True),
        "label_bytes": Metric("of labels", 0, per_cell=True),
    },
    finish=with_bytes,
)
