"""Rows of a table's frame: what is known of a cell without a record, and mixtures of a cell's records."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ddbench.api.table import Cell, TableSpec
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results.conditions import pools
from ddbench.results.records import Record
from ddbench.tables.rows import SETTING_COLUMNS, frame_row, measured_row, name_mixtures

if TYPE_CHECKING:
    from tests.unit.tables.conftest import Stored

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
    named = name_mixtures(SPEC, [*rows, {**row, "row": "c"}], pools(stored))
    text = "its records differ: device one, other"
    assert [each["mixture"] for each in named] == [text, text, "", ""]


def test_each_mixture_in_a_cell_is_named(stored: Stored) -> None:
    built = {"torch": "2.15.0", "POT": "0.9.7", "threads": 1, "processes": 1, "distribution": "ddbench", "digest": ""}
    stages = {"teacher": [built], "statistics": [built], "distill": [built], "evaluate": [built]}
    first = stored.record(stored.experiment(), 50.0, stages=stages)
    device = {"type": "cpu", "name": "a CPU", "threads": 1}
    cases: dict[str, dict[str, Any]] = {
        "threads 1, 2 (evaluate)": {"stages": {**stages, "evaluate": [{**built, "threads": 2}]}},
        "processes 1, 2 (distill, evaluate)": {
            "stages": {**stages, **{stage: [{**built, "processes": 2}] for stage in ("distill", "evaluate")}}
        },
        "torch 2.15.0, 2.4.0 (distill)": {"stages": {**stages, "distill": [built, {**built, "torch": "2.4.0"}]}},
        "POT 0.9.3, 0.9.7 (statistics)": {"stages": {**stages, "statistics": [{**built, "POT": "0.9.3"}]}},
        "package ddbench, ddbench-mine (distill)": {
            "stages": {**stages, "distill": [{**built, "distribution": "ddbench-mine"}]}
        },
        "device a CPU, a GPU": {"device": {**device, "name": "a GPU"}},
        "compile off, on": {
            "configuration": {
                **first.configuration,
                "runtime": {**first.configuration["runtime"], "compile": "on"},
            }
        },
        "1 of 2 do not record how their stages were built": {"stages": {}},
    }
    same = {**first.configuration, "runtime": {**first.configuration["runtime"], "compile": "off"}}
    for message, changes in cases.items():
        other = stored.experiment().model_copy(update={"repeat": 1})
        pair = [
            stored.record(stored.experiment(), 50.0, **{"stages": stages, "configuration": same}),
            stored.record(other, 60.0, **{"stages": stages, "configuration": {**same, "repeat": 1}, **changes}),
        ]
        frame = stored.frame(*pair)
        (note,) = set(frame.loc[frame["state"] == "measured", "mixture"])
        assert note.startswith("its records differ: ")
        assert message in note.removeprefix("its records differ: ").split("; "), note
    # How one teacher was built says nothing about its weights, and other sets and students are no mixture.
    frame = stored.frame(
        stored.record(stored.experiment(), 50.0, stages=stages, configuration=same),
        stored.record(other, 60.0, stages={**stages, "teacher": [{**built, "threads": 8}]}, configuration=same),
    )
    assert set(frame.loc[frame["state"] == "measured", "mixture"]) == {""}


def test_another_number_of_the_same_key_is_named(stored: Stored) -> None:
    shown = stored.record(stored.experiment(), 50.0, created="2026-02-01T00:00:00+00:00")
    older = stored.record(stored.experiment(), 43.0, name="older", keys=shown.keys)
    frame = stored.frame(shown, older)
    (row,) = frame[frame["state"] == "measured"].to_dict("records")
    assert row["top1"] == 50.0
    assert row["mixture"] == "not shown: 43.00 (older), with the same seeds or images"
