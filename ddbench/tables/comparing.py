"""The core's tables. They compare all registered methods. Imports no torch and no pandas."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ddbench.api.hookspecs import hookimpl
from ddbench.api.table import TOP1, Cell, Metric, TableQuery, TableSpec
from ddbench.tables.budget import BUDGET
from ddbench.tables.efficiency import measure_costs
from ddbench.tables.hyperparameters import methods_by_dataset, recipe_settings

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.tables.rows import Row

STUDENTS = ("resnet18", "resnet50", "resnet101", "vit_tiny_patch16_224", "vit_small_patch16_224")
REGIMES = ("fkd", "soft", "hard")
SCORES = {
    "ior": ("random",),
    "hlr": ("hard", "full"),
    **dict.fromkeys(("lrs_raw", "lrs"), ("random", "hard", "full")),
    **dict.fromkeys(("ars_raw", "ars"), ("random", "unaugmented", "unaugmented random")),
}
"""The scores of a cell, each with the references that it needs."""
ROBUST = ("lrs_raw", "lrs", "ars_raw", "ars")
"""The robust scores: raw in percentage points, and normalised to [0, 1]."""
SCORE_METRICS = {
    "ior": Metric("IOR", 2, per_cell=True),
    "hlr": Metric("HLR", 2, per_cell=True),
    "lrs_raw": Metric("raw LRS", 2, per_cell=True),
    "lrs": Metric("LRS", 3, per_cell=True),
    "ars_raw": Metric("raw ARS", 2, per_cell=True),
    "ars": Metric("ARS", 3, per_cell=True),
}


def comparison(query: TableQuery) -> Iterable[Cell]:
    """Returns a cell for each method, dataset and IPC, under the default protocol of the method."""
    for dataset in query.datasets:
        for method in query.methods:
            for ipc in query.ipcs:
                yield Cell(method, method, dataset, ipc)


def cross_arch(query: TableQuery) -> Iterable[Cell]:
    """Returns a cell for each method, dataset, IPC and student of Table 2.

    A fifth of the distilled images is held out to select the epoch (section 5.3).
    """
    for dataset in query.datasets:
        for method in query.methods:
            for student in STUDENTS:
                for ipc in query.ipcs:
                    settings = {"evaluator.select_share": 0.2}
                    yield Cell(method, method, dataset, ipc, student, "fkd", settings)


def regimes(query: TableQuery) -> Iterable[Cell]:
    """Returns a cell for each method, dataset, IPC and label regime."""
    for dataset in query.datasets:
        for method in query.methods:
            for ipc in query.ipcs:
                for regime in REGIMES:
                    yield Cell(method, method, dataset, ipc, evaluator=regime)


def with_scores(frame: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """Adds scores to each cell: those of `SCORES`, `hlr` only to the cells with hard labels.

    See `ddbench.results.scores`. If a score is missing, the column `NAME_note` states the reason. A raw or normalised
    robust score that no cell of a column of the table has, because its references were not run, has no note.

    Args:
        frame: The tidy frame.
        records: All records, from `ddbench.results.frames.to_frame`.

    Returns:
        The frame with the columns. All students of a cell have the same values.
    """
    import pandas as pd

    from ddbench.results.scores import scores, without_augmentation
    from ddbench.tables.rows import BLOCK_COLUMNS

    notes = [f"{name}_note" for name in SCORES]
    # Dicts, because writing into a frame is slow.
    values: dict[Any, Row] = {
        index: {**dict.fromkeys(SCORES, math.nan), **dict.fromkeys(notes, "")} for index in frame.index
    }
    measured = frame[frame["state"] == "measured"]
    unaugmented = without_augmentation(records) if len(records) else pd.Series(dtype=bool)
    for _, part in measured.groupby(list(BLOCK_COLUMNS), dropna=False):
        rows = scores(records[records["name"].isin(part["record"]) | unaugmented]).to_dict("records")
        of_record = {name: score for score in rows for name in score["records"]}
        for _, cell in part.groupby(["row", "recipe", "ipc", "evaluator"]):
            of_cell = [of_record.get(name) for name in cell["record"]]
            score = of_cell[0]
            if score is None:
                continue
            if any(other is not score for other in of_cell):
                for index in cell.index:
                    values[index] |= dict.fromkeys(notes, "the students of the cell are not all comparable")
                continue
            missing = score["missing"].split("; ") if score["missing"] else []
            for name, references in SCORES.items():
                if name != "hlr" or score["regime"] == "hard":
                    texts = [text for text in missing if text.partition(": ")[0] in references]
                    for index in cell.index:
                        values[index] |= {name: score[name], f"{name}_note": "; ".join(texts)}
        for _, column in part.groupby(["ipc", "evaluator"]):
            of_column = [values[index] for index in column.index]
            absent = [f"{name}_note" for name in ROBUST if all(math.isnan(row[name]) for row in of_column)]
            for row in of_column:
                row |= dict.fromkeys(absent, "")
    return frame.join(pd.DataFrame(list(values.values()), frame.index, [*SCORES, *notes]))


@hookimpl
def ddbench_tables() -> Iterable[TableSpec]:
    return [
        TableSpec("comparison", "methods x datasets x IPC", comparison, "WMDD paper, Table 1", ipcs=(1, 10, 50, 100)),
        TableSpec(
            "cross-arch",
            "students of other networks on the same distilled sets",
            cross_arch,
            "WMDD paper, Table 2",
            columns=("ipc", "student"),
            metrics={"top1_selected": Metric("top-1", 2, published_as="top1", show_difference=True, mark_best=True)},
            ipcs=(50,),
        ),
        TableSpec(
            "efficiency",
            "seconds per iteration, memory and total time at IPC 1, one process per method",
            comparison,
            "WMDD paper, Table 3",
            metrics={
                "seconds_per_iteration": Metric("s / iteration", per_cell=True),
                "peak_memory_gb": Metric("peak GB", per_cell=True),
                "total_seconds": Metric("s for 2,000 iterations", per_cell=True),
            },
            ipcs=(1,),
            fill=measure_costs,
        ),
        TableSpec(
            "hyperparameters",
            "settings of the recipes, by dataset",
            methods_by_dataset,
            "WMDD paper, Table 7",
            row="setting",
            columns=(),
            metrics={"value": Metric("value", per_cell=True)},
            fill=recipe_settings,
        ),
        TableSpec(
            "regimes",
            "methods under fkd, soft and hard labels, with the scores of DD-Ranking",
            regimes,
            columns=("ipc", "evaluator"),
            metrics={**TOP1, **SCORE_METRICS},
            finish=with_scores,
        ),
        BUDGET,
    ]
