"""`hyperparameters` (Table 7): the settings that recipes give. Runs nothing; imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ddbench.api.table import Cell, TableQuery, TableSpec
from ddbench.core.errors import DDBenchError
from ddbench.tables.context import TableContext

if TYPE_CHECKING:
    import pandas as pd


def methods_by_dataset(asked: TableQuery) -> Iterable[Cell]:
    """Every method on every dataset."""
    for dataset in asked.datasets:
        for method in asked.methods:
            yield Cell(method, method, dataset, None)


def recipe_settings(spec: TableSpec, cells: list[Cell], desk: TableContext) -> pd.DataFrame:
    """A line a dataset and setting of teacher, method and protocol: its value under the recipes that are asked for."""
    import pandas as pd

    from ddbench.core.text import value_text
    from ddbench.pipeline.composition import load_recipes
    from ddbench.results import published
    from ddbench.tables.cells import cell_experiments
    from ddbench.tables.lines import FRAME_COLUMNS, frame_row

    known = load_recipes(desk.request.recipes, desk.registry)
    lines: list[dict[str, Any]] = []
    for cell in cells:
        try:
            experiment = cell_experiments(cell, desk.request, desk.registry, known)[0]
        except DDBenchError as error:
            lines.append(frame_row(spec, cell, desk.request, state="failed", reason=str(error)))
            continue
        sections = {
            "teacher": experiment.teacher,
            cell.method: experiment.method,
            experiment.evaluator_name: experiment.evaluator,
        }
        for name, section in sections.items():
            for setting, value in section.model_dump(mode="json").items():
                if value is not None:
                    shown = ", ".join(map(value_text, value)) if isinstance(value, list) else value_text(value)
                    row = replace(cell, row=f"{name}.{setting}")
                    # Nothing runs, so there is no device.
                    line = {**frame_row(spec, row, desk.request, experiment, "read"), "device": ""}
                    lines.append({**line, "value": shown})
    frame = pd.DataFrame(lines, columns=[*FRAME_COLUMNS, "value"]).astype({"ipc": "Int64"})
    frame = frame.drop_duplicates(["row", "dataset", "setting"])
    theirs = {(row["ours"], row["dataset"]): row["value"] for row in published.load(spec.name).to_dict("records")}
    places = frame[["row", "dataset"]].itertuples(index=False)
    of_paper = published.PAPER_SIZES  # what the paper sets for "all" is for these
    found = [theirs.get((row, name), theirs.get((row, "all"))) if name in of_paper else None for row, name in places]
    return frame.assign(published_value=pd.Series(found, index=frame.index, dtype=object))
