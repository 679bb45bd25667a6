"""Loads a table from records. Imports no torch and no pandas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load(name: str, results_dir: Path | str = "results", ipcs: tuple[int, ...] = ()) -> pd.DataFrame:
    """Loads a table from the records of a folder. Computes nothing.

    Args:
        name: Name of the table.
        results_dir: Folder of the results.
        ipcs: Images per class. Default: those of the table and of the records.

    Returns:
        A tidy frame with one row per cell and student. docs/tables.md describes the columns.

    Raises:
        DDBenchError: If the table is unknown.
    """
    from ddbench.pipeline.request import Request
    from ddbench.registry.registry import PluginRegistry
    from ddbench.tables.frame import build_frame

    registry = PluginRegistry()
    request = Request(methods=(), datasets=(), ipcs=ipcs)
    return build_frame(registry.table(name), request, registry, None, Path(results_dir))
