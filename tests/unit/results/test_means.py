"""Mean top-1 of a setting: which records are one point, their means by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pytest

from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation
from ddbench.figures import regularisation, scaling
from ddbench.results.means import mean_top1
from ddbench.results.records import Record

PROTOCOLS = {"fkd": KnowledgeDistillation().model_dump(), "hard": HardLabels().model_dump()}


def points(frame: pd.DataFrame) -> dict[tuple[str, float], tuple[float, int, int]]:
    """(series, x) -> top-1, students, sets."""
    return {(row.series, row.x): (row.top1, row.n, row.sets) for row in frame.itertuples()}


def test_students_that_differ_in_seeds_alone_are_one_point(record: Callable[..., Record]) -> None:
    frame = mean_top1(
        [
            record(60.0, seed=0),
            record(62.0, seed=1),
            record(67.0, repeat=1),
            record(62.0, seed=1, name="asked-for-again-11111111"),
            record(40.0, ipc=1),
            record(50.0, method="random"),
        ],
        "ipc",
    )
    assert points(frame) == {
        ("random", 10.0): (50.0, 1, 1),
        ("wmdd", 1.0): (40.0, 1, 1),
        ("wmdd", 10.0): (64.0, 3, 2),
    }
    assert list(frame["panel"].unique()) == ["imagenette, 64 px\nfkd v1, resnet18"]
    of_wmdd = frame[(frame["series"] == "wmdd") & (frame["x"] == 10)].iloc[0]
    assert of_wmdd["deviation"] == pytest.approx(18**0.5)  # of the sets: 61 and 67
    assert frame[frame["n"] == 1]["deviation"].isna().all()


@pytest.mark.parametrize(
    ("other", "titles"),
    [
        ({"evaluator": "hard"}, {"fkd v1, resnet18", "hard v1, resnet18"}),
        ({"student": "resnet50"}, {"fkd v1, resnet18", "fkd v1, resnet50"}),
        (
            {"teacher": ("two", 81.25)},
            {"fkd v1, resnet18, teacher 76.0 %", "fkd v1, resnet18, teacher 81.2 %"},
        ),
    ],
)
def test_what_cannot_be_compared_never_shares_a_panel(
    other: dict[str, Any], titles: set[str], record: Callable[..., Record]
) -> None:
    frame = mean_top1([record(50.0, method="random"), record(60.0, method="random", **other)], "ipc")
    assert {panel.partition("\n")[2] for panel in frame["panel"]} == titles
    assert sorted(frame["top1"]) == [50.0, 60.0]


def test_two_settings_of_a_protocol_are_two_panels_that_say_which(record: Callable[..., Record]) -> None:
    changed = record(60.0, method="random")
    changed.configuration["evaluator_settings"] = {**PROTOCOLS["fkd"], "temperature": 4.0}
    frame = mean_top1([record(50.0, method="random"), changed], "ipc")
    assert [panel.rpartition(", ")[2] for panel in frame["panel"]] == ["temperature 4", "temperature 20"]


def test_a_method_is_called_by_what_tells_its_records_apart(record: Callable[..., Record]) -> None:
    actual = [
        record(1.0),
        record(2.0, bn_weight=100.0),
        record(3.0, recipes=("quick", "released"), bn_weight=1.0),
        record(4.0, method="random"),
    ]
    frame = mean_top1(actual, "ipc")
    assert dict(zip(frame["top1"], frame["series"], strict=True)) == {
        1.0: "wmdd, quick, bn_weight 10",
        2.0: "wmdd, quick, bn_weight 100",
        3.0: "wmdd, quick+released",
        4.0: "random",
    }


def mixed(name: str, one: Record, other: Record) -> tuple[Record, Record]:
    """The two records, which now differ in the condition of this name."""
    for number, record in enumerate((one, other), 1):
        match name:
            case "threads":
                record.device["threads"] = number
            case "compile":
                record.configuration["runtime"]["compile"] = ("off", "on")[number - 1]
    return one, other


@pytest.mark.parametrize(
    ("name", "mixture"),
    [("threads", "threads 1, 2 (evaluate)"), ("compile", "compile off, on"), ("seeds", "")],
)
def test_figures_name_the_points_whose_records_differ(name: str, mixture: str, record: Callable[..., Record]) -> None:
    def messages(draw: Callable[[Sequence[Record], Callable[[str], None]], object], *others: Record) -> list[str]:
        found: list[str] = []
        draw([*mixed(name, record(60.0), record(62.0, seed=1)), *others], found.append)
        return found

    (point,) = mean_top1(mixed(name, record(60.0), record(62.0, seed=1)), "ipc").itertuples()
    assert (point.top1, point.n, point.mixture) == (61.0, 2, mixture)
    by_ipc = messages(scaling.draw, record(40.0, ipc=1))
    by_weight = messages(regularisation.draw, record(40.0, bn_weight=1.0))
    ending = f"imagenette differ: {mixture}"
    assert by_ipc == ([f"note: the records of wmdd, IPC 10, {ending}"] if mixture else [])
    assert by_weight == ([f"note: the records of wmdd, method.bn_weight 10, {ending}"] if mixture else [])


def test_figures_name_three_mixtures_and_count_the_others(record: Callable[..., Record]) -> None:
    messages: list[str] = []
    pairs = [mixed("threads", record(60.0, ipc=ipc), record(62.0, ipc=ipc, seed=1)) for ipc in (1, 5, 10, 20, 50)]
    scaling.draw([one for pair in pairs for one in pair], messages.append)
    assert messages == [
        *(f"note: the records of wmdd, IPC {ipc}, imagenette differ: threads 1, 2 (evaluate)" for ipc in (1, 5, 10)),
        "note: the records of 2 other points differ too",
    ]


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_newest_record_of_a_student_counts_and_the_other_number_is_named(
    newest_first: bool, record: Callable[..., Record]
) -> None:
    keys = {"evaluate": ["key"], "statistics": ["all"]}
    older = record(43.0, name="older", keys=keys)
    newer = record(50.0, name="newer", keys=keys, created="2026-02-01T00:00:00+00:00")
    (point,) = mean_top1([newer, older] if newest_first else [older, newer], "ipc").itertuples()
    assert (point.top1, point.n) == (50.0, 1)
    assert point.mixture == "not shown: 43.00 (older), with the same seeds or images"
