"""The tidy frame: rows of methods that are not installed, and faults of a table of a plugin."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from ddbench.api.hookspecs import hookimpl
from ddbench.api.table import Cell, TableSpec
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request
from ddbench.registry.registry import PluginRegistry
from ddbench.tables.frame import build_frame
from ddbench.tables.layout import text_blocks


def request_of(**fields: Any) -> Request:
    return Request(**{"methods": (), "datasets": (), "ipcs": (), **fields})


def test_published_rows_of_methods_that_are_not_installed_stay(tmp_path: Path) -> None:
    core = PluginRegistry([point for point in entry_points(group="ddbench") if point.dist.name == "ddbench"])
    with pytest.raises(DDBenchError, match="method 'wmdd' is in the package ddbench-wmdd, which is not installed here"):
        core.distiller("wmdd")
    spec = core.table("comparison")
    frame = build_frame(spec, request_of(datasets=("imagenette",)), core, None, tmp_path)
    (block,) = text_blocks(spec, frame)
    shown = block.cells.set_index("method")["IPC 10 published"].map(lambda text: text.partition(" [")[0])
    assert (shown["wmdd"], shown["random"], shown["mtt"]) == ("64.8 ± 0.4", "47.7 ± 2.4", "63.0 ± 1.3")
    assert set(frame.loc[frame["row"] == "wmdd", "state"]) == {"published only"}


def test_the_fault_of_a_table_is_named_with_its_traceback(tmp_path: Path) -> None:
    def finish(frame: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(gap=every["nothing"])

    registry = PluginRegistry()
    spec = TableSpec("gaps", "", lambda query: [Cell("a", "random", "digits", 1)], finish=finish)
    registry.register(SimpleNamespace(ddbench_tables=hookimpl(lambda: [spec])), "ddbench-gaps")
    path = tmp_path / "failures" / "table-gaps.txt"
    with pytest.raises(DDBenchError) as caught:
        build_frame(registry.table("gaps"), request_of(), registry, None, tmp_path)
    assert str(caught.value) == f"table 'gaps' of ddbench-gaps: KeyError: 'nothing' (traceback: {path})"
    assert 'every["nothing"]' in path.read_text(encoding="utf-8")
