"""What the code of a table gives is checked, and named with its package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ddbench.api.hookspecs import hookimpl
from ddbench.api.table import Cell, Metric, TableQuery
from ddbench.api.table import TableSpec as Spec
from ddbench.core.errors import DDBenchError, PluginError
from ddbench.pipeline.request import Request
from ddbench.registry.registry import PluginRegistry
from ddbench.tables.frame import build_frame

if TYPE_CHECKING:
    import pandas as pd


def constant(*cells: object) -> Callable[[TableQuery], Iterable[Any]]:
    return lambda wanted: cells


def finished(change: Callable[[pd.DataFrame], Any]) -> dict[str, Any]:
    return {"finish": lambda frame, every: change(frame)}


def filled(value: object) -> dict[str, Any]:
    return {"fill": lambda spec, cells, context: value}


def build(tmp_path: Path, methods: tuple[str, ...] = (), **parts: Any) -> pd.DataFrame:
    registry = PluginRegistry()
    spec = Spec("mine", "", **{"cells": constant(Cell("random", "random", "digits", 1)), **parts})
    registry.register(SimpleNamespace(ddbench_tables=hookimpl(lambda: [spec])), "ddbench-mine")
    request = Request(methods=methods, datasets=("digits",), ipcs=(1,))
    return build_frame(spec, request, registry, None, tmp_path)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (finished(lambda frame: None), "TypeError: finish returns None, not a DataFrame"),
        (
            finished(lambda frame: frame.drop(columns="dataset")),
            "ValueError: finish returns a frame without 1 column: dataset",
        ),
        (
            finished(lambda frame: frame[["row", "dataset", "top1"]]),
            "ValueError: finish returns a frame without 23 columns: table, method, classes, ...",
        ),
        (
            finished(lambda frame: frame.assign(top1="high")),
            "TypeError: finish returns 'high' in the column 'top1', not a number",
        ),
        (
            finished(lambda frame: frame.assign(top1=[[1.0]] * len(frame))),
            "TypeError: finish returns [1.0] in the column 'top1', not a number",
        ),
        (
            {
                **finished(lambda frame: frame.assign(kind=[("a",)] * len(frame))),
                "metrics": {"kind": Metric("kind", per_cell=True)},
            },
            "TypeError: finish returns ('a',) in the column 'kind', not a number or text",
        ),
        (filled(None), "TypeError: fill returns None, not a DataFrame"),
        (filled([]), "TypeError: fill returns [], not a DataFrame"),
        ({"cells": constant("digits")}, "TypeError: cells gives 'digits', not a Cell"),
        (
            {"cells": constant(Cell("random", "random", "digits", "1"))},  # type: ignore[arg-type]
            "TypeError: cells gives a Cell whose ipc is '1', not a whole number or None",
        ),
        (
            {"columns": ("colour",)},
            "ValueError: columns has 'colour', which is not one of ipc, student, evaluator",
        ),
        ({"metrics": {"top1": "Top"}}, "TypeError: metrics has 'Top' as 'top1', not a Metric"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError) as caught:
        build(tmp_path, **parts)
    path = tmp_path / "failures" / "table-mine.txt"
    assert str(caught.value) == f"table 'mine' of ddbench-mine: {message} (traceback: {path})"
    assert message in path.read_text(encoding="utf-8")


def test_what_is_right_passes(tmp_path: Path) -> None:
    parts = finished(lambda frame: frame.drop(columns=["top1_selected", "mixture"]).assign(kind="a", top1=1))
    frame = build(tmp_path, metrics={"kind": Metric("kind", per_cell=True), "top1": Metric("top-1")}, **parts)
    assert set(frame["kind"]) == {"a"}


def test_a_wrong_option_is_no_fault_of_the_table(tmp_path: Path) -> None:
    with pytest.raises(DDBenchError, match=r"^unknown method 'rando'; did you mean 'random'") as caught:
        build(tmp_path, methods=("rando",), metrics={"top1": "Top"})
    assert not isinstance(caught.value, PluginError)
    assert not (tmp_path / "failures").exists()
