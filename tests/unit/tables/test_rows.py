"""Rows of a table's frame: what is known of a cell without a record, and mixtures of a cell's records."""

from __future__ import annotations

from collections.abc import Callable

from ddbench.api.table import Cell, TableSpec
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results.records import Record
from ddbench.tables.rows import SETTING_COLUMNS, frame_row, measured_row, name_mixtures

CELL = Cell("a row", "random", "digits", 1)
SPEC = TableSpec("mine", "", lambda query: [CELL])


def test_a_cell_alone_is_what_was_asked_for() -> None:
    row = frame_row(SPEC, CELL, Request(methods=(), datasets=(), ipcs=()), reason="no data", state="failed")
    expected = {"table": "mine", "row": "a row", "method": "random", "dataset": "digits", "ipc": 1}
    assert row | expected == row
    assert (row["state"], row["reason"], row["classes"], row["student"]) == ("failed", "no data", None, "")
    assert frame_row(SPEC, CELL, Request(methods=(), datasets=(), ipcs=()))["state"] == "never run"


def test_the_recipe_names_changes_of_data_and_teacher_and_the_setting_holds_them() -> None:
    registry = PluginRegistry()

    def row(*assignments: str) -> dict[str, object]:
        request = Request(("random",), ("digits",), (1,), recipes=("smoke",), assignments=assignments, device="cpu")
        (experiment,) = experiments(request, registry)
        return frame_row(SPEC, CELL, request, experiment)

    plain, teacher, protocol = row(), row("teacher.epochs=5"), row("evaluator.epochs=7")
    assert plain["recipe"] == "smoke"
    assert teacher["recipe"] == "smoke --set teacher.epochs=5"
    assert protocol["recipe"] == "smoke --set evaluator.epochs=7"
    settings = [[each[name] for name in SETTING_COLUMNS if name != "recipe"] for each in (plain, teacher, protocol)]
    assert settings[0] == settings[2]  # the protocol's own settings are the recipe's
    assert settings[0] != settings[1]


def test_records_of_one_cell_that_differ_are_named_in_all_its_rows(record: Callable[..., Record]) -> None:
    devices = [{"type": "cpu", "name": name, "threads": 1} for name in ("one", "other", "other")]
    stored = [record(50.0 + n, seed=n, name=f"r{n}", device=device) for n, device in enumerate(devices)]
    row = frame_row(SPEC, CELL, Request(methods=(), datasets=(), ipcs=()))
    rows = [measured_row(row, stored[0]), measured_row(row, stored[1]), measured_row({**row, "row": "b"}, stored[2])]
    assert [each["top1"] for each in rows] == [50.0, 51.0, 52.0]
    assert {each["state"] for each in rows} == {"measured"}
    named = name_mixtures(SPEC, [*rows, {**row, "row": "c"}], stored)
    text = "its records differ: device one, other"
    assert [each["mixture"] for each in named] == [text, text, "", ""]
