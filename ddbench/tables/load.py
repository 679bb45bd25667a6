"""What a table is: the cells that it measures, and what it shows of them. Imports no torch and no pandas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load(name: str, results_dir: Path = Path("results"), ipcs: tuple[int, ...] = ()) -> pd.DataFrame:
    """What the records of `results_dir` hold of the table `name`, tidy: one row a cell and student.

    `ipcs`: images a class (default: the table's own and those of the records). Columns: see docs/tables.md; `state`
    is "measured" or "never run". Computes nothing. Raises DDBenchError for an unknown table.
    """
    from ddbench.pipeline.request import Request
    from ddbench.registry.registry import PluginRegistry
    from ddbench.tables.filling import build_frame

    registry = PluginRegistry()
    request = Request(methods=(), datasets=(), ipcs=ipcs)
    return build_frame(registry.table(name), request, registry, None, results_dir)
