"""Loads a table from records. Imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.core.checks import FOLDER, require_type

if TYPE_CHECKING:
    import pandas as pd


def load(name: str, results_dir: Path | str = "results", ipcs: Sequence[int] = ()) -> pd.DataFrame:
    """Loads a table from the records of a folder. Computes nothing.

    Args:
        name: Name of the table.
        results_dir: Folder of the results.
        ipcs: Images per class, each at least 1. Default: those of the table and of the records.

    Returns:
        A tidy frame with one row per cell and student. docs/tables.md describes the columns.

    Raises:
        DDBenchError: If the table is unknown.
        TypeError: If an argument has another type.
        ValueError: If an IPC is less than 1.
    """
    from ddbench.pipeline.request import Request
    from ddbench.registry.registry import PluginRegistry
    from ddbench.tables.frame import build_frame

    numbers = "a sequence of images per class, e.g. (1, 10)"
    require_type("tables.load", "name", name, str, "the name of a table, e.g. 'comparison'")
    require_type("tables.load", "results_dir", results_dir, FOLDER, "the folder of the results as text or Path")
    require_type("tables.load", "ipcs", ipcs, (list, tuple, range), numbers)
    for ipc in ipcs:
        require_type("tables.load", "an element of ipcs", ipc, int, numbers)
        if ipc < 1:
            raise ValueError(f"tables.load: ipcs has {ipc}; pass numbers of at least 1")
    registry = PluginRegistry()
    request = Request(methods=(), datasets=(), ipcs=tuple(ipcs))
    return build_frame(registry.table(name), request, registry, None, Path(results_dir))
