"""The table `hyperparameters` (Table 7): the settings of the recipes. Runs nothing; imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ddbench.api.table import Cell, TableQuery, TableSpec
from ddbench.core.errors import DDBenchError
from ddbench.tables.context import TableContext

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.tables.rows import Row


def methods_by_dataset(query: TableQuery) -> Iterable[Cell]:
    """Returns a cell for each method and dataset."""
    for dataset in query.datasets:
        for method in query.methods:
            yield Cell(method, method, dataset, None)


def recipe_settings(spec: TableSpec, cells: list[Cell], context: TableContext) -> pd.DataFrame:
    """Returns a row for each dataset and each setting of teacher, method and protocol, under the requested recipes.

    Args:
        spec: The table.
        cells: Its cells.
        context: The options and the registered plugins.

    Returns:
        The tidy frame with the columns `value` and `published_value`.
    """
    import pandas as pd

    from ddbench.core.text import value_text
    from ddbench.pipeline.composition import load_recipes
    from ddbench.results import published
    from ddbench.tables.cells import cell_experiments
    from ddbench.tables.rows import FRAME_COLUMNS, frame_row

    known = load_recipes(context.request.recipes, context.registry)
    rows: list[Row] = []
    for cell in cells:
        try:
            experiment = cell_experiments(cell, context.request, context.registry, known)[0]
        except DDBenchError as error:
            rows.append(frame_row(spec, cell, context.request, state="failed", reason=str(error)))
            continue
        sections = {
            "teacher": experiment.teacher,
            cell.method: experiment.method,
            experiment.evaluator_name: experiment.evaluator,
        }
        for name, section in sections.items():
            for setting, value in section.model_dump(mode="json").items():
                if value is not None:
                    text = ", ".join(map(value_text, value)) if isinstance(value, list) else value_text(value)
                    setting_cell = replace(cell, row=f"{name}.{setting}")
                    row = frame_row(spec, setting_cell, context.request, experiment, "read")
                    rows.append({**row, "device": "", "value": text})  # nothing runs, so there is no device
    frame = pd.DataFrame(rows, columns=[*FRAME_COLUMNS, "value"]).astype({"ipc": "Int64"})
    frame = frame.drop_duplicates(["row", "dataset", "setting"])
    table = {(row["ours"], row["dataset"]): row["value"] for row in published.load(spec.name).to_dict("records")}
    values = [
        # "all" in the paper means all datasets of the paper.
        table.get((row, dataset), table.get((row, "all"))) if dataset in published.PAPER_SIZES else None
        for row, dataset in frame[["row", "dataset"]].itertuples(index=False)
    ]
    return frame.assign(published_value=pd.Series(values, index=frame.index, dtype=object))
